"""One training step: forward, losses, gradient, update."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from panoptic_cli.categories import LabelSpace
from panoptic_cli.config.schema import Experiment
from panoptic_cli.models import losses as loss_ops
from panoptic_cli.models.panoptic_fpn import PanopticFPN


class PanopticTrainingModel(keras.Model):
    """The network together with its losses, for `keras.Model.fit`.

    Attributes:
        network: the PanopticFPN whose weights are trained.
    """

    def __init__(self, experiment: Experiment, label_space: LabelSpace) -> None:
        super().__init__(name="training")
        self.experiment = experiment
        self.network = PanopticFPN(experiment.task.model, label_space)
        self._seed = experiment.trainer.seed
        runtime = experiment.runtime
        self._compiled = runtime.enable_xla or runtime.tpu is not None or runtime.distribution_strategy == "tpu"
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
        """Updates the weights on one batch; returns the losses, averaged over the replicas."""
        context = tf.distribute.get_replica_context()
        replica = context.replica_id_in_sync_group
        step = tf.cast(self.optimizer.iterations.value, tf.int32)
        seed = tf.stack([self._seed + 1_000_003 * tf.cast(replica, tf.int32), step])
        with tf.GradientTape() as tape:
            losses = self.batch_losses(data, seed)
            # Gradients are summed over the replicas, so each contributes its share of the mean.
            loss = losses["total_loss"] / context.num_replicas_in_sync
            scaled = self.optimizer.scale_loss(loss)
        variables = self.network.trainable_variables
        self.optimizer.apply_gradients(zip(tape.gradient(scaled, [v.value for v in variables]), variables, strict=True))
        values = tf.stack(list(losses.values()))
        if context.num_replicas_in_sync > 1:
            values = context.all_reduce(tf.distribute.ReduceOp.MEAN, values)
        return dict(zip(losses, tf.unstack(values), strict=True))
