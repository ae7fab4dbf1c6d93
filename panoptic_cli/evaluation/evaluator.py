"""Evaluation of a network on records, scored as COCO scores."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorflow as tf

from panoptic_cli import console, weights
from panoptic_cli.errors import DataError, PanopticError, counted, summarize
from panoptic_cli.evaluation.category_figures import category_figures
from panoptic_cli.evaluation.coco_ap import AveragePrecision
from panoptic_cli.evaluation.evaluation_data import EvaluationData, read_data
from panoptic_cli.evaluation.picture_scores import PictureScores
from panoptic_cli.evaluation.prediction_loop import Batch, score_all
from panoptic_cli.evaluation.report_data import ReportData
from panoptic_cli.inference.predictor import LoadedModel, Predictor
from panoptic_cli.pipeline.batches import evaluation_dataset
from panoptic_cli.pipeline.record_errors import explained_records
from panoptic_cli.results.coco_files import PredictionWriter
from panoptic_cli.results.prediction import Prediction

_FUSING_THREADS = 4  # at most
_HOPELESS = 10  # unusable records without a usable one, after which an evaluation ends
_SHOWN = 3


@dataclass(frozen=True)
class EvaluationResult:
    """The figures of an evaluation, all in 0..1.

    Attributes:
        panoptic: see PanopticQuality.result.
        box, mask: see AveragePrecision.figures.
        per_class: see category_figures.
        semantic: see SemanticIoU.result; None for networks without a semantic head.
        images: number of scored pictures.
        seconds: wall time.
        step: training step of the weights; None if unknown.
        checkpoint: where they came from.
        partial: whether the evaluation was interrupted, so that the figures are only those of the first `images`.
        left_out: number of records that cannot be used and do not count.
    """

    panoptic: dict[str, Any]
    box: dict[str, float | None]
    mask: dict[str, float | None]
    per_class: dict[int, dict[str, Any]]
    semantic: dict[str, Any] | None
    images: int
    seconds: float
    step: int | None
    checkpoint: str
    partial: bool = False
    left_out: int = 0

    @property
    def images_per_second(self) -> float:
        """Pictures per second of wall time."""
        return self.images / self.seconds if self.seconds > 0 else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Returns the object that --json prints and metrics.json contains."""
        return {
            "panoptic": self.panoptic,
            "box": self.box,
            "mask": self.mask,
            "per_class": self.per_class,
            **({"semantic": self.semantic} if self.semantic is not None else {}),
            "images": self.images,
            "images_per_second": round(self.images_per_second, 3),
            "step": self.step,
            "checkpoint": self.checkpoint,
            "partial": self.partial,
            "left_out": self.left_out,
        }


class Evaluator:
    """Evaluates a network on the validation records; the network is traced only once.

    Args:
        model: the network; the replicas of its strategy share the pictures. The annotation file for box and mask AP
            is that of its configuration; without one, the objects of the records are used.
        pattern: the records; None for those of the model's configuration.
        batch_size: pictures that each replica takes at once; None for 1 on a CPU, and on GPUs for a replica's share
            of the configured validation batch.
        limit: evaluate only this many pictures.
        data: what `read_data` returned for the model, in place of `pattern` and `limit`.

    Attributes:
        model: the network with the weights loaded last.
        pattern: the records.
        predictor: runs the network.

    Raises:
        DataError: see `read_data`.
    """

    def __init__(
        self,
        model: LoadedModel,
        pattern: str | None = None,
        *,
        batch_size: int | None = None,
        limit: int | None = None,
        data: EvaluationData | None = None,
    ) -> None:
        task = model.experiment.task
        pattern = pattern or task.validation_data.input_path
        self._data = data or read_data(pattern, model.table, task.annotation_file, limit)
        self.model = model
        self.pattern = self._data.pattern
        self.predictor = Predictor(model)
        self._batch_size = batch_size or _default_batch_size(model)
        # On the CPU, the network uses all cores. A GPU is faster than one thread that fuses.
        self._threads = 1 if model.platform == "cpu" else min(_FUSING_THREADS, os.cpu_count() or 1)

    def load(self, checkpoint: str) -> None:
        """Loads the weights of another checkpoint into the network.

        Raises:
            RunError: the checkpoint is missing or does not fit the network.
        """
        loaded = weights.load_weights(self.model.network, checkpoint)
        self.model = dataclasses.replace(self.model, source=loaded.prefix, step=loaded.step, averaged=loaded.averaged)

    def evaluate(
        self,
        *,
        output_dir: Path | None = None,
        report: ReportData | None = None,
        keep_partial: bool = False,
        scored: Callable[[EvaluationResult], None] = lambda result: None,
    ) -> EvaluationResult:
        """Evaluates the network as it is now.

        Args:
            output_dir: folder for COCO-format predictions; None writes none.
            report: collects what a report shows besides the figures; None for no report.
            keep_partial: whether Ctrl-C returns the figures of the pictures so far, and writes no predictions, instead
                of raising KeyboardInterrupt.
            scored: called when all pictures are scored and the predictions are written, with all figures but average
                precision, which takes longest and most memory.

        Returns:
            All figures; they do not depend on the timing.

        Raises:
            DataError: no record can be used; names each of them.
            DeviceError: there is not enough memory.
        """
        begun = time.perf_counter()
        writer = PredictionWriter(output_dir, self.model.table) if output_dir is not None else None
        try:
            scores = PictureScores(
                self.model.table, writer, self._data.annotations, self._data.categories, report=report
            )
            unusable: list[PanopticError] = []
            partial = self._score(scores, unusable, keep_partial)
            if writer is not None and not partial:
                writer.close()
        finally:
            if writer is not None:
                writer.abort()
        self._warn(scores, unusable)
        unknown = AveragePrecision.unknown()
        panoptic, table = scores.quality.result(), self.model.table
        result = EvaluationResult(
            panoptic=panoptic,
            box=unknown.figures,
            mask=unknown.figures,
            per_class=category_figures(panoptic, table, unknown.per_class, unknown.per_class),
            semantic=scores.semantic.result() if scores.semantic is not None else None,
            images=len(scores.images),
            seconds=time.perf_counter() - begun,
            step=self.model.step,
            checkpoint=self.model.source,
            partial=partial,
            left_out=len(unusable),
        )
        scored(result)
        box, mask = scores.average_precision()
        return dataclasses.replace(
            result,
            box=box.figures,
            mask=mask.figures,
            per_class=category_figures(panoptic, table, box.per_class, mask.per_class),
            seconds=time.perf_counter() - begun,
        )

    def _score(self, scores: PictureScores, unusable: list[PanopticError], keep_partial: bool) -> bool:
        """Scores all pictures; returns whether Ctrl-C ended it early."""
        unread: list[Callable[[], PanopticError]] = []
        dataset = evaluation_dataset(
            self.pattern,
            self.model.preprocessing,
            batch_size=self._batch_size * self.predictor.replicas,
            limit=self._data.limit,
            unusable=unread.append,
        )

        def score(prediction: Prediction, record: bytes) -> None:
            try:
                scores.add(prediction, record)
            except DataError as error:
                unusable.append(error)
                if not scores.images and len(unusable) >= _HOPELESS:
                    raise _hopeless(self.pattern, unusable) from error

        partial = False
        try:
            with console.progress("Evaluating", self._data.images) as advance:
                for done in score_all(
                    self.predictor, _batches(dataset, self.pattern), self._batch_size, score, self._threads
                ):
                    advance(done)
        except KeyboardInterrupt:
            if not keep_partial or not scores.images:
                raise
            console.warn(f"Interrupted: only {counted(len(scores.images), 'pictures are')} scored.")
            partial = True
        unusable.extend(explain() for explain in unread)
        if not scores.images:
            raise _hopeless(self.pattern, unusable)
        return partial

    def _warn(self, scores: PictureScores, unusable: list[PanopticError]) -> None:
        """Tells what the figures do not show."""
        if unusable:
            count = len(unusable) + len(scores.images)
            described = " ".join(error.message for error in unusable[:_SHOWN])
            more = f" And {len(unusable) - _SHOWN} more." if len(unusable) > _SHOWN else ""
            console.warn(
                f"{len(unusable):,} of {counted(count, 'records')} cannot be used and do not count: {described}{more}"
            )
        if scores.without_crowds:
            console.warn(
                f"{counted(scores.without_crowds, 'records do')} not mark crowds, so PQ counts crowds as segments; the "
                "records of panoptic make-tfrecords mark them."
            )
        if scores.recounted:
            console.warn(
                f"The pixels of {counted(scores.recounted, 'objects')} of the records are counted, because the stated "
                "area is of another class of size."
            )


def _hopeless(pattern: str, unusable: list[PanopticError]) -> DataError:
    if not unusable:
        return DataError(f"The records {pattern} contain no pictures.", "Make them again, or correct the pattern.")
    return DataError(
        f"No record of {pattern} can be used: {summarize([error.message for error in unusable], _SHOWN)}",
        unusable[0].hint,
    )


def _default_batch_size(model: LoadedModel) -> int:
    """Returns how many pictures each replica takes at once."""
    if model.platform == "cpu":
        return 1
    replicas = model.strategy.num_replicas_in_sync if model.strategy is not None else 1
    return int(max(1, model.experiment.task.validation_data.global_batch_size // replicas))


def _batches(dataset: tf.data.Dataset, pattern: str) -> Iterator[Batch]:
    """Yields the batches; names the record that cannot be read."""
    with explained_records(pattern):
        yield from dataset
