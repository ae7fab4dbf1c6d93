"""The training loop: steps on batches, with callbacks in between."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from panoptic_cli.errors import DataError
from panoptic_cli.training.callbacks import Progress, StepCallback


def make_steps(model: keras.Model, strategy: tf.distribute.Strategy, count: int, *, xla: bool = False) -> Callable:
    """Builds a function that does several training steps in one call into TensorFlow.

    `keras.Model.fit` is not used. It draws a batch before each start and throws it away, which fails with several
    workers: Keras 3.15 averages that batch over all replicas, but a worker sees only its own.

    Args:
        model: a compiled training model. Its `train_step`, or its `accumulate_step` and `update_step`, return the same
            scalars on every replica.
        strategy: the devices.
        count: steps per call.
        xla: whether to compile the step; on a TPU it always is.

    Returns:
        A function that takes the iterator of a distributed dataset and the number of steps done, int32, and returns the
        scalars of the last step.
    """

    # The TPU's own compiler works on what is inside strategy.run.
    compiled = xla and not isinstance(strategy, tf.distribute.TPUStrategy)
    one = _accumulated(model, strategy, compiled) if model.accumulation > 1 else _single(model, strategy, compiled)

    @tf.function
    def steps(iterator: Any, done: tf.Tensor) -> dict[str, tf.Tensor]:
        if count == 1:  # a Python condition: no loop
            return one(iterator, done)
        # The step is called in one place, also for its last result: a TPU takes two calls for two programs.
        for place in tf.range(count):
            logs = one(iterator, done + place)
        return logs

    return steps


def _single(model: keras.Model, strategy: tf.distribute.Strategy, compiled: bool) -> Callable:
    """Returns a function of iterator and number that does one step on one batch."""

    # Without AutoGraph, which would rewrite every function of the network, tracing takes a third less time.
    @tf.function(jit_compile=compiled, autograph=False)
    def step(batch: Any, number: tf.Tensor) -> dict[str, tf.Tensor]:
        return _first(strategy, strategy.run(model.train_step, args=(batch, number)))

    return lambda iterator, number: step(next(iterator), number)


def _accumulated(model: keras.Model, strategy: tf.distribute.Strategy, compiled: bool) -> Callable:
    """Returns a function of iterator and number that does one step on several batches. Their losses are averaged."""
    batches = model.accumulation

    @tf.function(jit_compile=compiled, autograph=False)
    def accumulate(batch: Any, number: tf.Tensor, place: tf.Tensor) -> dict[str, tf.Tensor]:
        return _first(strategy, strategy.run(model.accumulate_step, args=(batch, number, place)))

    @tf.function(jit_compile=compiled, autograph=False)
    def update(number: tf.Tensor) -> dict[str, tf.Tensor]:
        with tf.name_scope("update"):  # a TPU takes two programs of one name for one
            return _first(strategy, strategy.run(model.update_step, args=(number,)))

    def step(iterator: Any, number: tf.Tensor) -> dict[str, tf.Tensor]:
        rows = tf.TensorArray(tf.float32, batches)
        for place in tf.range(batches):
            losses = accumulate(next(iterator), number, place)
            rows = rows.write(place, tf.stack(list(losses.values())))
        means = tf.reduce_mean(rows.stack(), axis=0)
        return {**{name: means[place] for place, name in enumerate(losses)}, **update(number)}

    return step


def _first(strategy: tf.distribute.Strategy, logs: dict[str, Any]) -> dict[str, tf.Tensor]:
    """Returns the first replica's values."""
    return {name: strategy.experimental_local_results(value)[0] for name, value in logs.items()}


def parts(start: int, end: int, per_loop: int) -> list[tuple[int, int]]:
    """Returns the (loops, steps per loop) from one step to another: whole loops first, then the rest in one loop."""
    whole, rest = divmod(end - start, per_loop)
    return [part for part in ((whole, per_loop), (1, rest)) if all(part)]


def run_steps(
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
        dataset: (step, input context) -> the batches from that step on, as one worker's replicas need them.
        progress: updated after each loop.
        callbacks: called after each loop, in order.
        end: the step to stop at.
        per_loop: steps between two calls of the callbacks.
        xla: whether to compile the step.

    Raises:
        DataError: the data ended.
    """
    for loops, count in parts(progress.step, end, per_loop):
        steps = make_steps(model, strategy, count, xla=xla)
        # The function is called here, before the step moves on.
        batches = strategy.distribute_datasets_from_function(lambda context: dataset(progress.step, context))
        iterator = iter(batches)
        for _ in range(loops):
            try:
                logs = steps(iterator, tf.constant(progress.step))
            except tf.errors.OutOfRangeError:
                raise DataError(
                    f"The training data ended at step {progress.step} of {end}.",
                    "Check the records with panoptic inspect: they may be empty.",
                ) from None
            progress.move_on(count, {name: float(value) for name, value in logs.items()})
            for callback in callbacks:
                callback.after_step()
