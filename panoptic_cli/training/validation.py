"""Evaluation of the network during training, without any effect on the training."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
import tensorflow as tf

from panoptic_cli import console
from panoptic_cli.categories import CategoryTable
from panoptic_cli.config import Experiment
from panoptic_cli.evaluation.evaluator import Evaluator
from panoptic_cli.inference.predictor import LoadedModel
from panoptic_cli.runs.evaluations import Evaluations, summary
from panoptic_cli.runs.summaries import Summaries
from panoptic_cli.training import inputs
from panoptic_cli.training.callbacks import Progress, StepCallback, StopOnSignal
from panoptic_cli.training.overlays import draw_overlays
from panoptic_cli.training.reporting import describe_quality
from panoptic_cli.weights.checkpoints import Checkpoints


def obstacle(strategy: tf.distribute.Strategy) -> str | None:
    """Returns why the devices of a training cannot evaluate; None if they can."""
    if isinstance(strategy, tf.distribute.TPUStrategy):
        return "the fusion of things and stuff works at each picture's own size, which TPUs do not support"
    if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return "one worker would evaluate while all others wait"
    return None


@contextlib.contextmanager
def averages_in_place(model: keras.Model) -> Iterator[None]:
    """Replaces the network's weights with their moving averages inside the block, if the training model has any.

    Afterwards the weights are the same to the last bit, also after an error.
    """
    averages = model.averages
    variables = model.network.trainable_variables if averages else []
    kept = [variable.numpy().copy() for variable in variables]  # numpy() may be a view
    try:
        for variable, average in zip(variables, averages, strict=True):
            variable.assign(average.numpy())
        yield
    finally:
        for variable, value in zip(variables, kept, strict=True):
            variable.assign(value)


class Validator:
    """Evaluates the network of a training on the validation records.

    Args:
        experiment: the configuration; `trainer.validation_steps` limits the pictures.
        table: the categories.
        model: the training model.
        summaries: for overlays of the first validation records.

    Raises:
        DataError: see `read_data`; the first evaluation may be hours away.
    """

    def __init__(
        self, experiment: Experiment, table: CategoryTable, model: keras.Model, summaries: Summaries | None = None
    ) -> None:
        self.model = model
        self.summaries = summaries
        strategy = model.distribute_strategy
        loaded = LoadedModel(experiment, table, model.network, "this training", None, strategy=strategy)
        # `inputs.check` has told what is assumed.
        data = inputs.read_validation_data(experiment, table, tell=lambda line: None)
        self._evaluator = Evaluator(loaded, data=data)

    def __call__(self, step: int) -> dict[str, Any]:
        """Returns the figures of the current weights, or of their averages; see `evaluations.summary`."""
        with averages_in_place(self.model):
            result = self._evaluator.evaluate()
            if self.summaries is not None:
                drawn = draw_overlays(self._evaluator.predictor, self._evaluator.pattern)
                self.summaries.pictures(step, "validation", drawn)
        return summary(result.to_dict())


class Validate(StepCallback):
    """Evaluates every validation interval and at the last step; a signal interrupts it.

    Args:
        progress: the state of the training.
        checkpoints: saves the weights before their evaluation, so that the best can be kept.
        evaluate: takes the step, returns figures by name (see evaluations.summary).
        evaluations: the file of the figures.
        signals: the signals that may interrupt it.
        summaries: TensorBoard's file.
        interval: steps.
        last_step: the last step.
    """

    def __init__(
        self,
        progress: Progress,
        checkpoints: Checkpoints,
        evaluate: Callable[[int], dict[str, Any]],
        evaluations: Evaluations,
        signals: StopOnSignal,
        summaries: Summaries,
        *,
        interval: int,
        last_step: int,
    ) -> None:
        super().__init__(progress)
        self.checkpoints = checkpoints
        self.evaluate = evaluate
        self.evaluations = evaluations
        self.signals = signals
        self.summaries = summaries
        self.interval = interval
        self.last_step = last_step

    def after_step(self) -> None:
        """Evaluates if an interval is complete."""
        if self.progress.passed(self.interval) or self.progress.step == self.last_step:
            with self.progress.pause():
                if self.checkpoints.saved_step != self.progress.step:
                    self.checkpoints.save(self.progress.step)
                self._evaluate()

    def catch_up(self) -> None:
        """Repeats the evaluation that the end of an earlier process interrupted."""
        step = self.progress.step
        if step and step % self.interval == 0 and step not in self.evaluations.steps():
            self._evaluate()

    def _evaluate(self) -> None:
        step = self.progress.step
        with self.signals.at_once():
            found = self.evaluate(step)
        prefix = self.checkpoints.saved_prefix
        assert prefix is not None
        best = self.evaluations.add({"step": step, **found, "checkpoint": prefix, "time": time.time()}, prefix)
        self.progress.quality = {key: found[key] for key in ("PQ", "box_AP", "mask_AP")}
        self.summaries.scalars(step, validation_tags(found))
        console.info(f"Step {step}: {describe_quality(self.progress.quality)}{', the best so far' if best else ''}.")


def validation_tags(figures: Mapping[str, Any]) -> dict[str, float | None]:
    """Returns an evaluation's figures by TensorBoard tag."""
    return {f"validation/{name}": value for name, value in figures.items() if name != "images"}
