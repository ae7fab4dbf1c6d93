"""One training step: forward, losses, gradient, update."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from panoptic_cli.categories import LabelSpace
from panoptic_cli.config.schema import Experiment
from panoptic_cli.models.panoptic_fpn import losses as loss_ops
from panoptic_cli.models.panoptic_fpn.network import PanopticFPN
from panoptic_cli.training.schedules import clip_norm


class PanopticTrainingModel(keras.Model):
    """The network together with its losses and moving averages, for `loop.run`.

    Attributes:
        network: the PanopticFPN whose weights are trained.
        averages: moving averages of its trainable variables, in their order; empty where none are wanted.
    """

    def __init__(self, experiment: Experiment, label_space: LabelSpace) -> None:
        super().__init__(name="training")
        self.experiment = experiment
        self.network = PanopticFPN(experiment.task.model, label_space)
        if experiment.task.freeze_backbone:
            self.network.backbone.freeze(5)
        self._seed = experiment.trainer.seed
        runtime = experiment.runtime
        self._compiled = runtime.enable_xla or runtime.tpu is not None or runtime.distribution_strategy == "tpu"
        self._clip_norm = clip_norm(experiment.trainer.optimizer_config)
        self._ema = experiment.trainer.optimizer_config.ema
        wanted = self.network.trainable_variables if self._ema.average_decay is not None else []
        # Keras would share the weights' own memory if they were given as initial values; the first update sets these.
        self.averages = [
            keras.Variable(
                "zeros",
                shape=v.shape,
                dtype="float32",
                trainable=False,
                aggregation="only_first_replica",
                name=f"average_{place}",
            )
            for place, v in enumerate(wanted)
        ]
        # L2 acts on the kernels of convolutions and dense layers, not on biases and normalisations.
        self._decayed = [v for v in self.network.trainable_variables if v.name == "kernel"]
        self.built = True

    def batch_losses(self, batch: dict[str, Any], seed: tf.Tensor) -> dict[str, tf.Tensor]:
        """Runs the network in training mode.

        Args:
            batch: one batch of the training pipeline.
            seed: int32 [2] of the ROI sampling.

        Returns:
            Scalars float32: total_loss, rpn_score_loss, rpn_box_loss, frcnn_class_loss, frcnn_box_loss, mask_loss,
            semantic_loss, l2_loss. The total is weighted, the parts are not.
        """
        task = self.experiment.task
        config = task.losses
        outputs = self.network.training_outputs(
            batch["images"],
            batch["image_info"],
            batch["gt_boxes"],
            batch["gt_classes"],
            batch["gt_masks"],
            seed,
            self._compiled,
        )
        score_targets = {int(level): x for level, x in batch["rpn_scores"].items()}
        box_targets = {int(level): x for level, x in batch["rpn_boxes"].items()}
        anchors_per_image = task.train_data.parser.rpn_batch_size_per_im
        classes = outputs["class_targets"]
        parts = {
            "rpn_score_loss": loss_ops.rpn_score_loss(outputs["rpn_scores"], score_targets, anchors_per_image),
            "rpn_box_loss": loss_ops.rpn_box_loss(outputs["rpn_boxes"], box_targets, config.rpn_huber_loss_delta),
            "frcnn_class_loss": loss_ops.box_class_loss(outputs["class_logits"], classes),
            "frcnn_box_loss": loss_ops.box_regression_loss(
                outputs["box_offsets"], classes, outputs["box_targets"], config.frcnn_huber_loss_delta
            ),
            "mask_loss": loss_ops.mask_loss(outputs["mask_logits"], outputs["mask_targets"], outputs["mask_classes"]),
            "semantic_loss": loss_ops.semantic_loss(
                outputs["semantic_logits"],
                batch["semantic_labels"],
                config.semantic_segmentation_ignore_label,
            ),
        }
        l2_loss = config.l2_weight_decay * tf.add_n([tf.nn.l2_loss(v.value) for v in self._decayed])
        return {"total_loss": loss_ops.weighted_total(parts, config) + l2_loss, **parts, "l2_loss": l2_loss}

    def train_step(self, data: dict[str, Any]) -> dict[str, tf.Tensor]:
        """Updates the weights on one batch.

        Returns:
            The losses, averaged over the replicas, and gradient_norm: the norm of the gradient of the total loss
            by all weights, before clipping.
        """
        context = tf.distribute.get_replica_context()
        # A copy, now: tf.cast hands out the variable itself where the type fits, to be read after the update.
        iteration = tf.cast(tf.identity(self.optimizer.iterations.value), tf.int32)
        seed = tf.stack([self._seed, iteration])
        with tf.GradientTape() as tape:
            losses = self.batch_losses(data, seed)
            # Gradients are summed over the replicas, so each contributes its share of the mean.
            loss = losses["total_loss"] / context.num_replicas_in_sync
            scaled = self.optimizer.scale_loss(loss)
        variables = self.network.trainable_variables
        gradients = sum_over_replicas(tape.gradient(scaled, [v.value for v in variables]))
        norm = tf.linalg.global_norm(gradients)
        scale = getattr(self.optimizer, "dynamic_scale", None)  # of the loss, with float16
        if scale is not None:
            norm /= scale.value
        if self._clip_norm is not None:
            factor = self._clip_norm / tf.maximum(norm, self._clip_norm)
            gradients = [gradient * tf.cast(factor, gradient.dtype) for gradient in gradients]
        self.optimizer.apply_gradients(zip(gradients, variables, strict=True))
        self._update_averages(iteration)
        values = tf.stack(list(losses.values()))
        if context.num_replicas_in_sync > 1:
            values = context.all_reduce(tf.distribute.ReduceOp.MEAN, values)
        return {**dict(zip(losses, tf.unstack(values), strict=True)), "gradient_norm": norm}

    def _update_averages(self, iteration: tf.Tensor) -> None:
        """Moves the averages towards the weights after the update number `iteration` (from 0)."""
        ema = self._ema
        if ema.average_decay is None:
            return
        since = tf.cast(iteration + 1 - ema.start_step, tf.float32)
        decay = tf.constant(ema.average_decay, tf.float32)
        if ema.dynamic_decay:
            decay = tf.minimum(decay, (1.0 + since) / (10.0 + since))
        # Initial weights may be loaded after construction: the averages begin with the first update.
        decay = tf.where((since < 0.0) | (iteration == 0), 0.0, decay)
        for average, variable in zip(self.averages, self.network.trainable_variables, strict=True):
            average.assign(average.value + (1.0 - decay) * (variable.value - average.value))


def sum_over_replicas(gradients: list[tf.Tensor]) -> list[tf.Tensor]:
    """Sums gradients over the replicas, for the optimizers of `training.schedules`; call it in a replica."""
    context = tf.distribute.get_replica_context()
    if context.num_replicas_in_sync == 1:
        return gradients
    summed: list[tf.Tensor] = context.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
    return summed
