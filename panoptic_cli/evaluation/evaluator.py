"""Evaluation of a network on records, scored as COCO scores."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorflow as tf

from panoptic_cli import console, storage, weights
from panoptic_cli.errors import DataError
from panoptic_cli.evaluation.picture_scores import PictureScores, read_annotations
from panoptic_cli.evaluation.prediction_loop import Batch, score_all
from panoptic_cli.evaluation.report_data import ReportData
from panoptic_cli.inference.predictor import LoadedModel, Predictor
from panoptic_cli.pipeline.batches import evaluation_dataset
from panoptic_cli.pipeline.record_errors import record_error
from panoptic_cli.records.files import count_records, find_record_files
from panoptic_cli.results.coco_files import PredictionWriter

_FUSING_THREADS = 4  # at most


@dataclass(frozen=True)
class EvaluationResult:
    """The figures of an evaluation, all in 0..1.

    Attributes:
        panoptic: see PanopticQuality.result.
        box, mask: see coco_average_precision.
        semantic: see SemanticIoU.result; None for networks without a semantic head.
        images: number of scored pictures.
        seconds: time from the second batch on, because the first one traces and compiles; of all if there is only one.
        timed_images: pictures in that time.
        step: training step of the weights; None if unknown.
        checkpoint: where they came from.
        partial: whether the evaluation was interrupted, so that the figures are only those of the first `images`.
    """

    panoptic: dict[str, Any]
    box: dict[str, float | None]
    mask: dict[str, float | None]
    semantic: dict[str, Any] | None
    images: int
    seconds: float
    timed_images: int
    step: int | None
    checkpoint: str
    partial: bool = False

    @property
    def images_per_second(self) -> float:
        """The steady rate."""
        return self.timed_images / self.seconds if self.seconds > 0 else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Returns the object that --json prints and metrics.json contains."""
        return {
            "panoptic": self.panoptic,
            "box": self.box,
            "mask": self.mask,
            **({"semantic": self.semantic} if self.semantic is not None else {}),
            "images": self.images,
            "images_per_second": round(self.images_per_second, 3),
            "step": self.step,
            "checkpoint": self.checkpoint,
            "partial": self.partial,
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

    Attributes:
        model: the network with the weights loaded last.
        pattern: the records.
        predictor: runs the network.

    Raises:
        DataError: the annotation file does not exist.
    """

    def __init__(
        self,
        model: LoadedModel,
        pattern: str | None = None,
        *,
        batch_size: int | None = None,
        limit: int | None = None,
    ) -> None:
        task = model.experiment.task
        self._annotation_file = Path(task.annotation_file) if task.annotation_file else None
        if self._annotation_file is not None and not self._annotation_file.is_file():
            raise DataError(
                f"The object annotations {self._annotation_file} do not exist.",
                "Give --annotation-file the instances JSON of the validation pictures, or omit it.",
            )
        self.model = model
        self.pattern = pattern or task.validation_data.input_path
        self.predictor = Predictor(model)
        self._limit = limit
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
        self, *, output_dir: Path | None = None, report: ReportData | None = None, keep_partial: bool = False
    ) -> EvaluationResult:
        """Evaluates the network as it is now.

        Args:
            output_dir: folder for COCO-format predictions; None writes none.
            report: collects what a report shows besides the figures; None for no report.
            keep_partial: whether Ctrl-C returns the figures of the pictures so far, and writes no predictions, instead
                of raising KeyboardInterrupt.

        Returns:
            All figures; they do not depend on the timing.

        Raises:
            DataError: records or annotations are missing, damaged or inconsistent; names the record or the picture.
            DeviceError: there is not enough memory.
        """
        model = self.model
        annotations = read_annotations(self._annotation_file) if self._annotation_file is not None else None
        dataset = evaluation_dataset(
            self.pattern,
            model.preprocessing,
            batch_size=self._batch_size * self.predictor.replicas,
            limit=self._limit,
        )
        writer = PredictionWriter(output_dir, model.table) if output_dir is not None else None
        try:
            scores = PictureScores(model.table, writer, annotations, report)
            clock, partial = self._score(dataset, scores, keep_partial)
            result = self._result(scores, clock, partial)
            if writer is not None and not partial:
                writer.close()
            return result
        finally:
            if writer is not None:
                writer.abort()

    def _score(self, dataset: tf.data.Dataset, scores: PictureScores, keep_partial: bool) -> tuple[_Clock, bool]:
        """Scores all pictures; returns their times, and whether Ctrl-C ended it early."""
        clock = _Clock()
        batches = _batches(dataset, self.pattern)
        try:
            with console.progress("Evaluating", _count(self.pattern, self._limit)) as advance:
                for done in score_all(self.predictor, batches, self._batch_size, scores.add, self._threads):
                    clock.tick(len(scores.images))
                    advance(done)
            clock.stop()
        except KeyboardInterrupt:
            clock.stop()
            if not keep_partial or not scores.images:
                raise
            console.warn(f"Interrupted: the figures are only those of the first {len(scores.images)} pictures.")
            return clock, True
        return clock, False

    def _result(self, scores: PictureScores, clock: _Clock, partial: bool) -> EvaluationResult:
        if not scores.images:
            raise DataError(
                f"The records {self.pattern} contain no pictures.", "Make them again, or correct the pattern."
            )
        if scores.without_crowds:
            console.warn(
                f"{scores.without_crowds} records do not mark crowds, so PQ counts crowds as segments; the records of "
                "panoptic make-tfrecords mark them."
            )
        seconds, timed_images = clock.steady(len(scores.images))
        return EvaluationResult(
            panoptic=scores.quality.result(),
            **scores.average_precision(),
            semantic=scores.semantic.result() if scores.semantic is not None else None,
            images=len(scores.images),
            seconds=seconds,
            timed_images=timed_images,
            step=self.model.step,
            checkpoint=self.model.source,
            partial=partial,
        )


def _default_batch_size(model: LoadedModel) -> int:
    """Returns how many pictures each replica takes at once."""
    if model.platform == "cpu":
        return 1
    replicas = model.strategy.num_replicas_in_sync if model.strategy is not None else 1
    return int(max(1, model.experiment.task.validation_data.global_batch_size // replicas))


def _count(pattern: str, limit: int | None) -> int | None:
    """Returns how many pictures there are to evaluate; None if counting would read all records from a bucket."""
    files = find_record_files(pattern, what="validation records")
    if any(storage.is_remote(path) for path in files):
        return limit
    try:
        count = sum(count_records(files))
    except DataError:
        if limit is None:
            raise  # fail now, not after evaluating all pictures before the damaged record
        return limit
    return count if limit is None else min(limit, count)


def _batches(dataset: tf.data.Dataset, pattern: str) -> Iterator[Batch]:
    """Yields the batches; names the record that cannot be read."""
    try:
        yield from dataset
    except tf.errors.OpError as error:
        explanation = record_error(error, pattern)
        if explanation is None:
            raise
        raise explanation from error


class _Clock:
    """Times the pictures after the first batch, which traces and compiles."""

    def __init__(self) -> None:
        self._begun = self._end = time.perf_counter()
        self._first: tuple[int, float] | None = None

    def tick(self, images: int) -> None:
        """Notes that this many pictures are scored."""
        if self._first is None:
            self._first = images, time.perf_counter()

    def stop(self) -> None:
        """Notes the end."""
        self._end = time.perf_counter()

    def steady(self, images: int) -> tuple[float, int]:
        """Returns seconds, and the number of pictures scored in them."""
        if self._first is None or self._first[0] >= images:
            return self._end - self._begun, images
        return self._end - self._first[1], images - self._first[0]
