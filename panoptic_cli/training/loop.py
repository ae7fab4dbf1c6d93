"""The training loop: batches through the step, callbacks in between."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from panoptic_cli.errors import DataError
from panoptic_cli.training.callbacks import Progress, StepCallback


def make_steps(model: keras.Model, strategy: tf.distribute.Strategy, count: int, *, xla: bool = False) -> Callable:
    """Makes the function that does several training steps in one call into TensorFlow.

    `keras.Model.fit` is not used: before each start it draws a batch that it throws away, and several workers fail
    there (Keras 3.15 averages a batch over replicas of which it sees its own only).

    Args:
        model: a compiled training model; its `train_step` returns the same scalars on every replica.
        strategy: the devices.
        count: steps of one call.
        xla: whether to compile the step.

    Returns:
        A function of the iterator of a distributed data set; gives the scalars of the last step.
    """

    @tf.function(jit_compile=xla)
    def step(batch: Any) -> dict[str, tf.Tensor]:
        logs = strategy.run(model.train_step, args=(batch,))
        return {name: strategy.experimental_local_results(value)[0] for name, value in logs.items()}

    @tf.function
    def steps(iterator: Any) -> dict[str, tf.Tensor]:
        if count > 1:  # Python's if: a loop that never runs would still double the graph
            for _ in tf.range(count - 1):
                step(next(iterator))
        return step(next(iterator))

    return steps


def parts(start: int, end: int, per_loop: int) -> list[tuple[int, int]]:
    """(loops, steps per loop) that lead from one step to another: whole loops, then the rest: the end is exact."""
    whole, rest = divmod(end - start, per_loop)
    return [part for part in ((whole, per_loop), (1, rest)) if all(part)]


def run(
    model: keras.Model,
    strategy: tf.distribute.Strategy,
    dataset: Callable[[int, tf.distribute.InputContext], tf.data.Dataset],
    progress: Progress,
    callbacks: Sequence[StepCallback],
    *,
    end: int,
    per_loop: int,
    xla: bool,
) -> None:
    """Trains from `progress.step` to `end`.

    Args:
        model: the compiled training model.
        strategy: the devices.
        dataset: gives one replica's parts of the batches from a step on.
        progress: moved on after each loop.
        callbacks: called after each loop, in order.
        end: the step to stop at.
        per_loop: steps between two calls of the callbacks.
        xla: whether to compile the step.

    Raises:
        DataError: the data ended.
    """
    for loops, count in parts(progress.step, end, per_loop):
        steps = make_steps(model, strategy, count, xla=xla)
        # Called before the step moves on.
        batches = strategy.distribute_datasets_from_function(lambda context: dataset(progress.step, context))
        iterator = iter(batches)
        for _ in range(loops):
            try:
                logs = steps(iterator)
            except tf.errors.OutOfRangeError:
                raise DataError(
                    f"The training data ended at step {progress.step} of {end}.",
                    "The records may be empty: run panoptic inspect on them.",
                ) from None
            progress.move_on(count, {name: float(value) for name, value in logs.items()})
            for callback in callbacks:
                callback.after_step()
