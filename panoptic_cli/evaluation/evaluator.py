"""The evaluation loop: the network over records, scored as COCO scores."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

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
        seconds: from the second batch on, because the first one traces and compiles.
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
    own_objects: bool
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

    def add(self, prediction: PicturePrediction, record: bytes) -> None:
        """Scores one picture."""
        table = self.model.table
        truth = GroundTruth.from_record(record, table, objects=self.own_objects)
        if truth.image_id in self.seen:
            raise DataError(
                f"Image {truth.image_id} is in the validation records twice.",
                "Check that the pattern of --eval-data matches one set of shards.",
            )
        self.seen.add(truth.image_id)
        self.without_crowds += not truth.has_crowds
        id_map, segments = segments_from_maps(prediction.category_map, prediction.instance_map, table)
        self.quality.add(truth.id_map, truth.segments, id_map, segments, image=truth.image_id)
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
    dataset = evaluation_dataset(
        pattern, model.experiment.task.model, batch_size=batch_size, limit=limit
    )
    predictor = Predictor(model)
    writer = PredictionWriter(output_dir, model.table) if output_dir is not None else None
    scores = _Scores(model, writer, own_objects=annotations is None)
    total, begun, timed = 0, 0.0, 0
    try:
        # One thread scores while the network computes the next picture: both leave Python's lock for the most part.
        with ThreadPoolExecutor(1, "scoring") as pool, console.progress("Evaluating", limit) as advance:
            waiting: list[Future[None]] = []
            for images, info, serialized in dataset:
                if total == 0:
                    first = int(images.shape[0])
                for prediction, record in zip(predictor(images, info), serialized.numpy(), strict=True):
                    waiting.append(pool.submit(scores.add, prediction, record))
                    if len(waiting) > _SCORING_BEHIND:
                        waiting.pop(0).result()
                    total += 1
                    advance()
                if total == first:
                    begun = time.perf_counter()
                timed = total - first
            for future in waiting:
                future.result()
        seconds = time.perf_counter() - begun if timed else 0.0
        if not total:
            raise DataError(f"The records {pattern} hold no pictures.", "Make them again, or correct the pattern.")
        if scores.without_crowds:
            console.warn(
                f"{scores.without_crowds} records do not tell crowds from instances, so PQ counts crowds as segments; "
                "records of panoptic make-tfrecords do."
            )
        result = EvaluationResult(
            panoptic=scores.quality.result(),
            **_average_precision(scores, annotations, model.table),
            semantic=scores.semantic.result(),
            images=total,
            seconds=seconds,
            timed_images=timed,
            step=model.step,
            checkpoint=model.source,
        )
        if writer is not None:
            writer.close()
        return result
    finally:
        if writer is not None:
            writer.abort()


def _average_precision(
    scores: _Scores, annotations: dict[str, Any] | None, table: CategoryTable
) -> dict[str, dict[str, float | None]]:
    ids = [image["id"] for image in scores.images]
    if annotations is None:
        annotations = {
            "images": scores.images,
            "annotations": scores.objects,
            "categories": [{"id": c.id, "name": c.name} for c in table.things],
        }
    else:
        absent = set(ids) - {image["id"] for image in annotations["images"]}
        if absent:
            raise DataError(
                f"{len(absent)} images of the records are not in the annotation file, image {min(absent, key=str)} "
                "for one.",
                "Give the instances JSON of the validation pictures with --annotation-file.",
            )
    return {
        "box": coco_average_precision(annotations, scores.detections, "bbox", ids),
        "mask": coco_average_precision(annotations, scores.detections, "segm", ids),
    }


def _read_annotations(path: Path) -> dict[str, Any]:
    value = read_json(path, "object annotations")
    if not isinstance(value, dict) or not isinstance(value.get("images"), list):
        raise DataError(f"{path} is no COCO instances JSON.", "It needs images, annotations and categories.")
    return value


