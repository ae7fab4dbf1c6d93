"""The evaluation loop: the network over records, scored as COCO scores."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from panoptic_cli import console
from panoptic_cli.categories import CategoryTable
from panoptic_cli.datasets.pipeline import evaluation_dataset
from panoptic_cli.errors import DataError
from panoptic_cli.evaluation.coco_ap import coco_average_precision, paste_masks_rle
from panoptic_cli.evaluation.groundtruth import GroundTruth
from panoptic_cli.evaluation.panoptic_quality import PanopticQuality
from panoptic_cli.evaluation.predictions import PredictionWriter, detection_entries, segments_from_maps
from panoptic_cli.evaluation.semantic_iou import SemanticIoU
from panoptic_cli.files import read_json
from panoptic_cli.inference import LoadedModel, PicturePrediction, Predictor

_SCORING_BEHIND = 4  # pictures that may wait for scoring while the network runs on


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

    @property
    def images_per_second(self) -> float:
        """The steady rate."""
        return self.timed_images / self.seconds if self.seconds > 0 else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Returns the object that --json prints and metrics.json holds."""
        panoptic = dict(self.panoptic)
        return {
            "panoptic": panoptic,
            "box": self.box,
            "mask": self.mask,
            "semantic": self.semantic,
            "images": self.images,
            "images_per_second": round(self.images_per_second, 3),
            "step": self.step,
            "checkpoint": self.checkpoint,
        }


@dataclass
class _Scores:
    """Everything summed up over the pictures."""

    model: LoadedModel
    writer: PredictionWriter | None
    annotations: dict[str, Any] | None  # COCO instances; None: those of the records
    known_images: set[Any] = field(init=False)
    quality: PanopticQuality = field(init=False)
    semantic: SemanticIoU = field(init=False)
    detections: list[dict[str, Any]] = field(default_factory=list)
    images: list[dict[str, Any]] = field(default_factory=list)
    objects: list[dict[str, Any]] = field(default_factory=list)
    seen: set[int | str] = field(default_factory=set)
    without_crowds: int = 0

    def __post_init__(self) -> None:
        self.quality = PanopticQuality(self.model.table)
        self.semantic = SemanticIoU(self.model.label_space)
        self.known_images = {image["id"] for image in (self.annotations or {"images": []})["images"]}

    def add(self, prediction: PicturePrediction, record: bytes) -> None:
        """Scores one picture."""
        table = self.model.table
        truth = GroundTruth.from_record(record, table, objects=self.annotations is None)
        if truth.image_id in self.seen:
            raise DataError(
                f"Image {truth.image_id} is in the validation records twice.",
                "Check that the pattern of --eval-data matches one set of shards.",
            )
        if self.annotations is not None and truth.image_id not in self.known_images:
            raise DataError(
                f"Image {truth.image_id} of the records is not in the annotation file.",
                "Give the instances JSON of the validation pictures with --annotation-file.",
            )
        self.seen.add(truth.image_id)
        self.without_crowds += not truth.has_crowds
        id_map, segments = segments_from_maps(prediction.category_map, prediction.instance_map, table)
        self.quality.add(truth.id_map, truth.segments, id_map, segments, image=truth.image_id)
        if prediction.semantic_map is not None:
            self.semantic.add(self._semantic_labels(truth), prediction.semantic_map)

        known = np.isin(prediction.category_ids, [c.id for c in table.things])
        boxes, ids = prediction.boxes[known], prediction.category_ids[known]
        masks = paste_masks_rle(prediction.masks[known], boxes, truth.height, truth.width)
        arguments = (truth.image_id, boxes, prediction.scores[known], ids, masks)
        if self.writer is not None:
            self.writer.add(truth.image_id, truth.file_name, prediction.category_map, prediction.instance_map)
            self.detections.extend(self.writer.add_detections(*arguments))
        else:
            self.detections.extend(detection_entries(*arguments))
        self.images.append({"id": truth.image_id, "height": truth.height, "width": truth.width})
        self.objects.extend(truth.objects)

    def _semantic_labels(self, truth: GroundTruth) -> np.ndarray:
        lookup = np.zeros(max((s.id for s in truth.segments), default=0) + 1, np.int32)
        for segment in truth.segments:
            lookup[segment.id] = self.model.label_space.semantic_class_of_id[segment.category_id]
        return lookup[truth.id_map]


def evaluate(
    model: LoadedModel,
    pattern: str,
    *,
    batch_size: int = 1,
    limit: int | None = None,
    annotation_file: Path | None = None,
    output_dir: Path | None = None,
) -> EvaluationResult:
    """Evaluates a model on records.

    Args:
        model: the network.
        pattern: validation records.
        batch_size: pictures the network takes at once.
        limit: only the first so many pictures.
        annotation_file: COCO instances JSON for box and mask AP; None takes the objects of the records.
        output_dir: where to write COCO-format predictions; None writes none.

    Returns:
        All figures.

    Raises:
        DataError: records or annotations are missing, broken or contradict each other.
    """
    annotations = _read_annotations(annotation_file) if annotation_file is not None else None
    dataset = evaluation_dataset(pattern, model.experiment.task.model, batch_size=batch_size, limit=limit)
    predictor = Predictor(model)
    writer = PredictionWriter(output_dir, model.table) if output_dir is not None else None
    scores = _Scores(model, writer, annotations)
    total, first, begun = 0, 0, time.perf_counter()
    try:
        # One thread scores while the network computes the next picture: both leave Python's lock for the most part.
        with ThreadPoolExecutor(1, "scoring") as pool, console.progress("Evaluating", limit) as advance:
            waiting: list[Future[None]] = []
            for images, info, serialized in _batches(dataset, pattern):
                for prediction, record in zip(predictor(images, info), serialized.numpy(), strict=True):
                    waiting.append(pool.submit(scores.add, prediction, record))
                    if len(waiting) > _SCORING_BEHIND:
                        waiting.pop(0).result()
                    total += 1
                    advance()
                if first == 0:
                    first, started, begun = total, begun, time.perf_counter()
            for future in waiting:
                future.result()
        if not total:
            raise DataError(f"The records {pattern} hold no pictures.", "Make them again, or correct the pattern.")
        one_batch = total == first
        seconds = time.perf_counter() - (started if one_batch else begun)
        if scores.without_crowds:
            console.warn(
                f"{scores.without_crowds} records do not tell crowds from instances, so PQ counts crowds as segments; "
                "records of panoptic make-tfrecords do."
            )
        result = EvaluationResult(
            panoptic=scores.quality.result(),
            **_average_precision(scores, model.table),
            semantic=scores.semantic.result(),
            images=total,
            seconds=seconds,
            timed_images=total if one_batch else total - first,
            step=model.step,
            checkpoint=model.source,
        )
        if writer is not None:
            writer.close()
        return result
    finally:
        if writer is not None:
            writer.abort()


def _batches(dataset: tf.data.Dataset, pattern: str) -> Iterator[Any]:
    """The batches of the records; says which record is at fault where one cannot be read."""
    batches, done = iter(dataset), 0
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except tf.errors.OpError as error:
            reason = " ".join(re.sub(r"\{\{.*?\}\}|\[Op:.*|\[\[.*", "", error.message).split())[:200]
            raise DataError(
                f"A validation record of {pattern} is damaged, not far behind the first {done}: {reason}.",
                "Find it with panoptic inspect, or make the records again.",
            ) from None
        done += int(batch[0].shape[0])
        yield batch


def _average_precision(scores: _Scores, table: CategoryTable) -> dict[str, dict[str, float | None]]:
    ids = [image["id"] for image in scores.images]
    annotations = scores.annotations
    if annotations is None:
        annotations = {
            "images": scores.images,
            "annotations": scores.objects,
            "categories": [{"id": c.id, "name": c.name} for c in table.things],
        }
    return {
        "box": coco_average_precision(annotations, scores.detections, "bbox", ids),
        "mask": coco_average_precision(annotations, scores.detections, "segm", ids),
    }


def _read_annotations(path: Path) -> dict[str, Any]:
    value = read_json(path, "object annotations")
    lists = isinstance(value, dict) and all(
        isinstance(value.get(key), list) for key in ("images", "annotations", "categories")
    )
    if not lists or not all(isinstance(image, dict) and "id" in image for image in value["images"]):
        raise DataError(f"{path} is no COCO instances JSON.", "It needs images, annotations and categories.")
    return dict(value)
