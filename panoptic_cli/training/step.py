"""One training step: losses, gradient, clipping, update and moving averages, for any network."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from panoptic_cli.config.schema import Experiment
from panoptic_cli.models.network import PanopticNetwork
from panoptic_cli.models.platform import Platform
from panoptic_cli.training.schedules import clip_norm


class TrainingModel(keras.Model):
    """A network with its moving averages, for `loop.run_steps`.

    Args:
        network: the network to train.
        experiment: the configuration; only `trainer` is used.
        platform: what the step is traced for: cpu, gpu or xla.

    Attributes:
        network: see above.
        averages: moving averages of the network's trainable variables, in their order; empty if none are configured.
    """

    def __init__(self, network: PanopticNetwork, experiment: Experiment, platform: Platform) -> None:
        super().__init__(name="training")
        self.network = network
        self._seed = experiment.trainer.seed
        self._platform = platform
        self._clip_norm = clip_norm(experiment.trainer.optimizer_config)
        self._ema = experiment.trainer.optimizer_config.ema
        averaged = network.trainable_variables if self._ema.average_decay is not None else []
        # Given the weights as initial values, Keras would share their memory. The first update sets the averages.
        self.averages = [
            keras.Variable(
                "zeros",
                shape=v.shape,
                dtype="float32",
                trainable=False,
                aggregation="none",  # all replicas compute the same; a TPU would exchange the values
                name=f"average_{place}",
            )
            for place, v in enumerate(averaged)
        ]
        self.built = True

    def train_step(self, data: dict[str, Any], number: tf.Tensor) -> dict[str, tf.Tensor]:
        """Updates the weights on one batch.

        Args:
            data: the batch.
            number: int32 scalar, the steps that are done. The caller counts, because random draws need this number on
                the host: reading the optimizer's counter would make the host wait for the device in each step.

        Returns:
            The losses, averaged over the replicas, and gradient_norm: the norm of the gradient of the total loss
            with respect to all weights, before clipping.
        """
        context = tf.distribute.get_replica_context()
        seed = tf.stack([self._seed, number])
        with tf.GradientTape() as tape:
            losses = self.network.losses(data, seed, number, self._platform)
            # Gradients are summed over the replicas, so that each replica contributes its share of the mean.
            loss = losses["total_loss"] / context.num_replicas_in_sync
            scaled = self.optimizer.scale_loss(loss)
        variables = self.network.trainable_variables
        # Of slices, which a gather leaves, the host would make the whole gradient.
        gradients = [tf.convert_to_tensor(g) for g in tape.gradient(scaled, [v.value for v in variables])]
        gradients = sum_over_replicas(gradients)
        norm = tf.linalg.global_norm(gradients)
        scale = getattr(self.optimizer, "dynamic_scale", None)  # scale of the loss, with float16
        if scale is not None:
            norm /= scale.value
        if self._clip_norm is not None:
            factor = self._clip_norm / tf.maximum(norm, self._clip_norm)
            gradients = [gradient * tf.cast(factor, gradient.dtype) for gradient in gradients]
        self.optimizer.apply_gradients(zip(gradients, variables, strict=True))
        self._update_averages(number)
        values = tf.stack(list(losses.values()))
        if context.num_replicas_in_sync > 1:
            values = context.all_reduce(tf.distribute.ReduceOp.MEAN, values)
        return {**dict(zip(losses, tf.unstack(values), strict=True)), "gradient_norm": norm}

    def _update_averages(self, number: tf.Tensor) -> None:
        """Moves the averages towards the weights after update `number` (counted from 0)."""
        ema = self._ema
        if ema.average_decay is None:
            return
        since = tf.cast(number + 1 - ema.start_step, tf.float32)
        decay = tf.constant(ema.average_decay, tf.float32)
        if ema.dynamic_decay:
            decay = tf.minimum(decay, (1.0 + since) / (10.0 + since))
        # Initial weights may be loaded after construction, so the averages begin with the first update.
        decay = tf.where((since < 0.0) | (number == 0), 0.0, decay)
        for average, variable in zip(self.averages, self.network.trainable_variables, strict=True):
            average.assign(average.value + (1.0 - decay) * (variable.value - average.value))


def sum_over_replicas(gradients: list[tf.Tensor]) -> list[tf.Tensor]:
    """Sums gradients over the replicas, for the optimizers of `training.schedules`; call it in a replica context."""
    context = tf.distribute.get_replica_context()
    if context.num_replicas_in_sync == 1:
        return gradients
    summed: list[tf.Tensor] = context.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
    return summed
