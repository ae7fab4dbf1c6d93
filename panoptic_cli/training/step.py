"""One training step: losses, gradient, clipping, update and moving averages, for any network.

A step may accumulate the gradients of several batches. `loop` loops over them outside the replicas' functions: within
a loop, the replicas of MirroredStrategy cannot share statistics.
"""

from __future__ import annotations

from collections.abc import Sequence
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
        # Not attributes that Keras tracks: between two steps the sums are empty, so no checkpoint needs them.
        self.accumulation = experiment.trainer.gradient_accumulation_steps
        self._sums = GradientSums(network.trainable_variables) if self.accumulation > 1 else None

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
        gradients, losses = self._differentiate(data, number, number)
        norm = self._update(gradients, number)
        return {**_average(losses), "gradient_norm": norm}

    def accumulate_step(self, data: dict[str, Any], number: tf.Tensor, place: tf.Tensor) -> dict[str, tf.Tensor]:
        """Adds the gradients of one of the batches of a step to those of the batches before. Updates no weights.

        Args:
            data: the batch.
            number: int32 scalar, the steps that are done.
            place: int32 scalar, the place of the batch in the step, from 0.

        Returns:
            The losses of the batch, averaged over the replicas.
        """
        assert self._sums is not None
        gradients, losses = self._differentiate(data, number, number * self.accumulation + place)
        self._sums.add(gradients, is_first=place == 0)
        return _average(losses)

    def update_step(self, number: tf.Tensor) -> dict[str, tf.Tensor]:
        """Updates the weights with the accumulated gradients. The batches are over: the next one is the first.

        Args:
            number: int32 scalar, the steps that are done.

        Returns:
            gradient_norm, see `train_step`.
        """
        assert self._sums is not None
        return {"gradient_norm": self._update(self._sums.values(), number)}

    def _differentiate(
        self, data: dict[str, Any], number: tf.Tensor, draw: tf.Tensor
    ) -> tuple[list[tf.Tensor], dict[str, tf.Tensor]]:
        """Returns a batch's share of this replica's gradients, multiplied by the loss scale, and its losses.

        Args:
            data: the batch.
            number: int32 scalar, the steps that are done.
            draw: int32 scalar, numbers the random draws.
        """
        context = tf.distribute.get_replica_context()
        with tf.GradientTape() as tape:
            losses = self.network.losses(data, tf.stack([self._seed, draw]), number, self._platform)
            # Gradients are summed over batches and replicas, so that each contributes its share of the mean.
            loss = losses["total_loss"] / (context.num_replicas_in_sync * self.accumulation)
            scaled = self.optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled, [v.value for v in self.network.trainable_variables])
        # Of slices, which a gather leaves, the host would make the whole gradient.
        return [tf.convert_to_tensor(g) for g in gradients], losses

    def _update(self, gradients: list[tf.Tensor], number: tf.Tensor) -> tf.Tensor:
        """Updates the weights and their averages with this replica's gradients; returns the norm of the whole."""
        variables = self.network.trainable_variables
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
        return norm

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


class GradientSums:
    """The sums of the gradients of several batches: on each replica those of its own parts.

    Args:
        variables: the variables that the gradients belong to. Create it in the scope of the distribution strategy.
    """

    def __init__(self, variables: Sequence[keras.Variable]) -> None:
        self._sums = [
            keras.Variable(
                "zeros",
                shape=v.shape,
                dtype=v.dtype,
                trainable=False,
                aggregation="none",  # each replica has its own
                name=f"gradient_{place}",
            )
            for place, v in enumerate(variables)
        ]

    def add(self, gradients: Sequence[tf.Tensor], *, is_first: tf.Tensor) -> None:
        """Adds gradients. The first ones replace what is left from before, whatever that is."""
        for total, gradient in zip(self._sums, gradients, strict=True):
            total.assign(tf.where(is_first, gradient, total.value + gradient))

    def values(self) -> list[tf.Tensor]:
        """Returns the sums of this replica."""
        # Copies on the replica's device. What is read from a variable is on none, and workers cannot exchange it.
        return [tf.identity(total.value) for total in self._sums]


def _average(losses: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Averages losses over the replicas."""
    context = tf.distribute.get_replica_context()
    values = tf.stack(list(losses.values()))
    if context.num_replicas_in_sync > 1:
        values = context.all_reduce(tf.distribute.ReduceOp.MEAN, values)
    return dict(zip(losses, tf.unstack(values), strict=True))


def sum_over_replicas(gradients: list[tf.Tensor]) -> list[tf.Tensor]:
    """Sums gradients over the replicas, for the optimizers of `training.schedules`; call it in a replica context."""
    context = tf.distribute.get_replica_context()
    if context.num_replicas_in_sync == 1:
        return gradients
    summed: list[tf.Tensor] = context.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
    return summed
