"""Evaluation of the network that is being trained; it changes nothing about the training."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from panoptic_cli import console
from panoptic_cli.categories import CategoryTable
from panoptic_cli.config import Experiment
from panoptic_cli.evaluation.evaluator import default_batch_size, evaluate
from panoptic_cli.inference.predictor import LoadedModel, Predictor
from panoptic_cli.runs.evaluations import Evaluations, summary
from panoptic_cli.runs.summaries import Summaries
from panoptic_cli.training.callbacks import Progress, StepCallback, StopOnSignal
from panoptic_cli.training.inputs import check_annotation_file
from panoptic_cli.training.overlays import draw_overlays
from panoptic_cli.training.reporting import describe_quality
from panoptic_cli.weights.checkpoints import Checkpoints


def obstacle(strategy: tf.distribute.Strategy) -> str | None:
    """Says why the devices of a training cannot evaluate along the way; None where they can."""
    if isinstance(strategy, tf.distribute.TPUStrategy):
        return "the fusion of things and stuff works at each picture's own size, which a TPU cannot do"
    if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return "one worker would evaluate while all the others wait for it"
    return None


@contextlib.contextmanager
def averages_in_place(model: keras.Model) -> Iterator[None]:
    """Puts the moving averages into the network for the block, where the training model keeps any.

    The weights come back bit by bit, also when the block is left by an error.
    """
    averages = getattr(model, "averages", [])
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
        summaries: gets overlay pictures of the first validation records.

    Raises:
        DataError: the configured annotation file is not there; the first evaluation may be hours away.
    """

    def __init__(
        self, experiment: Experiment, table: CategoryTable, model: keras.Model, summaries: Summaries | None = None
    ) -> None:
        if experiment.task.annotation_file is not None:
            check_annotation_file(experiment.task.annotation_file)
        self.experiment = experiment
        self.model = model
        self.summaries = summaries
        strategy = model.distribute_strategy
        several = strategy.num_replicas_in_sync > 1
        self._loaded = LoadedModel(
            experiment, table, model.network, "this training", None, strategy=strategy if several else None
        )
        self._predictor = Predictor(self._loaded)

    def __call__(self, step: int) -> dict[str, Any]:
        """Returns the figures of the weights as they are, or of their averages; see `evaluations.summary`."""
        task = self.experiment.task
        batches = self.experiment.trainer.validation_steps
        pattern = task.validation_data.input_path
        with averages_in_place(self.model):
            result = evaluate(
                self._loaded,
                pattern,
                batch_size=default_batch_size(self._loaded),
                limit=None if batches in (None, -1) else batches * task.validation_data.global_batch_size,
                annotation_file=Path(task.annotation_file) if task.annotation_file else None,
                predictor=self._predictor,
            )
            if self.summaries is not None:
                self.summaries.pictures(step, "validation", draw_overlays(self._predictor, pattern))
        return summary(result.to_dict())


class Validate(StepCallback):
    """Evaluates every validation interval and at the last step; a signal interrupts it.

    Args:
        progress: where the training stands.
        checkpoints: the weights are saved before they are evaluated, so that the best can be kept.
        evaluate: step -> figures by name (see evaluations.summary).
        evaluations: where they go.
        signals: what may interrupt it.
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
        """Evaluates when an interval was passed."""
        if self.progress.passed(self.interval) or self.progress.step == self.last_step:
            with self.progress.pause():
                if self.checkpoints.saved_step != self.progress.step:
                    self.checkpoints.save(self.progress.step)
                self._evaluate()

    def catch_up(self) -> None:
        """Does the evaluation that the end of an earlier process cut off."""
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
