"""The evaluation loop: the network over records, scored as COCO scores."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from panoptic_cli import console
from panoptic_cli.errors import DataError, DeviceError, PanopticError, RunError
from panoptic_cli.evaluation.picture_scores import PictureScores, read_annotations
from panoptic_cli.evaluation.report_data import ReportData
from panoptic_cli.inference.predictor import LoadedModel, PicturePrediction, Predictor
from panoptic_cli.pipeline.batches import evaluation_dataset
from panoptic_cli.pipeline.record_errors import record_error
from panoptic_cli.pipeline.stream import count_records, record_files
from panoptic_cli.records import schema
from panoptic_cli.results.coco_files import PredictionWriter

_BATCHES_BEHIND = 2  # batches whose outputs may wait for fusion and scoring
_FUSING_THREADS = 4  # at most, beside GPUs


@dataclass
class EvaluationResult:
    """What an evaluation found; all figures in 0..1.

    Attributes:
        panoptic: see PanopticQuality.result.
        box, mask: see coco_average_precision.
        semantic: see SemanticIoU.result.
        images: pictures scored.
        seconds: from the second batch on, because the first one traces and compiles; of all where there is one only.
        timed_images: pictures of that time.
        step: training step of the weights.
        checkpoint: where they came from.
        partial: whether the evaluation was interrupted, so that the figures are those of the first `images` alone.
    """

    panoptic: dict[str, Any]
    box: dict[str, float | None]
    mask: dict[str, float | None]
    semantic: dict[str, Any]
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
        """Returns the object that --json prints and metrics.json holds."""
        return {
            "panoptic": dict(self.panoptic),
            "box": self.box,
            "mask": self.mask,
            "semantic": self.semantic,
            "images": self.images,
            "images_per_second": round(self.images_per_second, 3),
            "step": self.step,
            "checkpoint": self.checkpoint,
            "partial": self.partial,
        }


def default_batch_size(model: LoadedModel) -> int:
    """Returns how many pictures a device takes at once: 1 on a CPU, its share of the validation batch on GPUs."""
    if not tf.config.get_visible_devices("GPU"):
        return 1
    replicas = model.strategy.num_replicas_in_sync if model.strategy is not None else 1
    return max(1, model.experiment.task.validation_data.global_batch_size // replicas)


def evaluate(
    model: LoadedModel,
    pattern: str,
    *,
    batch_size: int = 1,
    limit: int | None = None,
    annotation_file: Path | None = None,
    output_dir: Path | None = None,
    report: ReportData | None = None,
    keep_partial: bool = False,
    predictor: Predictor | None = None,
) -> EvaluationResult:
    """Evaluates a model on records.

    Args:
        model: the network; the replicas of its strategy share the pictures.
        pattern: validation records.
        batch_size: pictures each replica takes at once.
        limit: only the first so many pictures.
        annotation_file: COCO instances JSON for box and mask AP; None takes the objects of the records.
        output_dir: where to write COCO-format predictions; None writes none.
        report: filled with what a report shows besides the figures; None leaves that out.
        keep_partial: whether Ctrl-C gives the figures over what was done, and no predictions, instead of
            KeyboardInterrupt.
        predictor: of `model`, traced by an earlier evaluation; None makes one.

    Returns:
        All figures; the same ones whatever the timing.

    Raises:
        DataError: records or annotations are missing, broken or contradict each other; names record or picture.
        DeviceError: the memory does not suffice.
    """
    annotations = read_annotations(annotation_file) if annotation_file is not None else None
    predictor = predictor or Predictor(model)
    dataset = evaluation_dataset(
        pattern, model.experiment.task.model, batch_size=batch_size * predictor.replicas, limit=limit
    )
    writer = PredictionWriter(output_dir, model.table) if output_dir is not None else None
    scores = PictureScores(model.table, model.label_space, writer, annotations, report)
    clock, partial = _Clock(), False
    try:
        try:
            with console.progress("Evaluating", _count(pattern, limit)) as advance:
                for done in _score_all(predictor, scores, _batches(dataset, pattern), batch_size):
                    clock.tick(len(scores.images))
                    advance(done)
            clock.stop()
        except KeyboardInterrupt:
            clock.stop()
            if not keep_partial or not scores.images:
                raise
            partial = True
            console.warn(f"interrupted: the figures are those of the first {len(scores.images)} pictures alone")
        if not scores.images:
            raise DataError(f"The records {pattern} hold no pictures.", "Make them again, or correct the pattern.")
        if scores.without_crowds:
            console.warn(
                f"{scores.without_crowds} records do not tell crowds from instances, so PQ counts crowds as segments; "
                "records of panoptic make-tfrecords do."
            )
        seconds, timed_images = clock.steady(len(scores.images))
        result = EvaluationResult(
            panoptic=scores.quality.result(),
            **scores.average_precision(),
            semantic=scores.semantic.result(),
            images=len(scores.images),
            seconds=seconds,
            timed_images=timed_images,
            step=model.step,
            checkpoint=model.source,
            partial=partial,
        )
        if writer is not None and not partial:
            writer.close()
        return result
    finally:
        if writer is not None:
            writer.abort()


def _count(pattern: str, limit: int | None) -> int | None:
    """Returns how many pictures there are to evaluate; None where counting would read all records from a bucket."""
    files = record_files(pattern)
    if any("://" in path for path in files):
        return limit
    try:
        count = sum(count_records(files))
    except DataError:
        if limit is None:
            raise  # before the pictures in front of the damage were evaluated for nothing
        return limit
    return count if limit is None else min(limit, count)


class _Clock:
    """Times the pictures behind the first batch, which traces and compiles."""

    def __init__(self) -> None:
        self._begun = self._end = time.perf_counter()
        self._first: tuple[int, float] | None = None

    def tick(self, images: int) -> None:
        """Notes that so many pictures are done."""
        if self._first is None:
            self._first = images, time.perf_counter()

    def stop(self) -> None:
        """Notes the end."""
        self._end = time.perf_counter()

    def steady(self, images: int) -> tuple[float, int]:
        """Returns seconds and how many pictures they are of."""
        if self._first is None or self._first[0] >= images:
            return self._end - self._begun, images
        return self._end - self._first[1], images - self._first[0]


def _score_all(predictor: Predictor, scores: PictureScores, batches: Iterator[Any], batch_size: int) -> Iterator[int]:
    """Runs the network, and behind it fusion and scoring in threads of their own; yields how many more are scored.

    All of them leave Python's lock for the most part. Pictures are scored one at a time in their order, so the
    figures do not depend on the timing; at most _BATCHES_BEHIND batches wait.
    """
    # On the CPU the network takes what cores there are; a GPU is faster than one thread that fuses.
    beside_gpus = bool(tf.config.get_visible_devices("GPU"))
    threads = min(_FUSING_THREADS, os.cpu_count() or 1) if beside_gpus else 1
    waiting: deque[Future[None]] = deque()
    with ThreadPoolExecutor(threads, "fusion") as fusing, ThreadPoolExecutor(1, "scoring") as scoring:
        try:
            for images, info, serialized in batches:
                record_of = serialized.numpy()
                info = info.numpy()
                outputs = _run(predictor, images, info, batch_size, record_of)
                for one, image_info, record in zip(outputs, info, record_of, strict=True):
                    fused = fusing.submit(predictor.fuse, one, image_info)
                    waiting.append(scoring.submit(_score, scores, fused, record))
                yield from _finished(waiting, _BATCHES_BEHIND * batch_size * predictor.replicas)
            yield from _finished(waiting, 0)
        except BaseException:
            # What is being scored is finished, so that it counts wholly or not at all.
            scoring.shutdown(wait=False, cancel_futures=True)
            fusing.shutdown(wait=False, cancel_futures=True)
            raise


def _finished(waiting: deque[Future[None]], most: int) -> Iterator[int]:
    """Takes out what is done, and waits until no more than `most` are left."""
    while waiting and (waiting[0].done() or len(waiting) > most):
        waiting.popleft().result()
        yield 1


def _score(scores: PictureScores, fused: Future[PicturePrediction], record: bytes) -> None:
    try:
        scores.add(fused.result(), record)
    except (PanopticError, OSError):  # a full disk has nothing to do with the picture
        raise
    except Exception as error:  # whatever it was: the user has to know which picture it was about
        reason = " ".join(str(error).split())[:300]
        raise RunError(
            f"Image {_name(record)} cannot be evaluated: {type(error).__name__}: {reason}",
            "Check its record with panoptic inspect; PANOPTIC_DEBUG=1 shows the traceback.",
        ) from error


def _run(
    predictor: Predictor, images: tf.Tensor, info: np.ndarray, share: int, record_of: np.ndarray
) -> list[dict[str, Any]]:
    try:
        return predictor.run(images, info, share)
    except tf.errors.ResourceExhaustedError as error:
        height, width = images.shape[1:3]
        raise DeviceError(
            f"The memory does not suffice for {len(record_of)} pictures of {height} x {width} at once.",
            "Give a smaller --batch-size, or --precision bfloat16.",
        ) from error
    except tf.errors.OpError as error:
        names = ", ".join(_name(record) for record in record_of)
        reason = " ".join(error.message.split())[:300]
        raise RunError(
            f"The network failed on image {names}: {reason}", "PANOPTIC_DEBUG=1 shows the traceback."
        ) from error


def _name(record: bytes) -> str:
    """The picture's id, as far as the record tells."""
    try:
        (source_id,) = schema.decode_example(record)[schema.IMAGE_SOURCE_ID]
    except (ValueError, KeyError):
        return "?"
    return bytes(source_id).decode(errors="replace")


def _batches(dataset: tf.data.Dataset, pattern: str) -> Iterator[Any]:
    """The batches of the records; says which record is at fault where one cannot be read."""
    try:
        yield from dataset
    except tf.errors.OpError as error:
        explanation = record_error(error, pattern)
        if explanation is None:
            raise
        raise explanation from error
