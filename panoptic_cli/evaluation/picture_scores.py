"""What an evaluation sums up picture by picture; without TensorFlow."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from panoptic_cli.categories import CategoryTable, LabelSpace
from panoptic_cli.errors import DataError
from panoptic_cli.evaluation.coco_ap import coco_average_precision, paste_masks_rle
from panoptic_cli.evaluation.groundtruth import GroundTruth
from panoptic_cli.evaluation.panoptic_quality import PanopticQuality
from panoptic_cli.evaluation.report_data import ReportData, picture_of_record
from panoptic_cli.evaluation.semantic_iou import SemanticIoU
from panoptic_cli.files import read_json
from panoptic_cli.results.coco_files import PredictionWriter, detection_entries, segments_from_maps

if TYPE_CHECKING:
    from panoptic_cli.inference.predictor import PicturePrediction


@dataclass
class PictureScores:
    """Everything summed up over the pictures.

    Attributes:
        table: the categories.
        label_space: the classes of the semantic head.
        writer: gets COCO-format predictions; None writes none.
        annotations: COCO instances for box and mask AP; None takes the objects of the records.
        report: filled with what a report shows besides the figures; None leaves that out.
        images: COCO's entry of each picture scored, in order.
        without_crowds: how many of the records did not tell crowds from instances.
    """

    table: CategoryTable
    label_space: LabelSpace
    writer: PredictionWriter | None = None
    annotations: dict[str, Any] | None = None
    report: ReportData | None = None
    known_images: set[Any] = field(init=False)
    quality: PanopticQuality = field(init=False)
    semantic: SemanticIoU = field(init=False)
    detections: list[dict[str, Any]] = field(default_factory=list)
    images: list[dict[str, Any]] = field(default_factory=list)
    objects: list[dict[str, Any]] = field(default_factory=list)
    seen: set[int | str] = field(default_factory=set)
    without_crowds: int = 0

    def __post_init__(self) -> None:
        self.quality = PanopticQuality(self.table)
        self.semantic = SemanticIoU(self.label_space)
        self.known_images = {image["id"] for image in (self.annotations or {"images": []})["images"]}

    def add(self, prediction: PicturePrediction, record: bytes) -> None:
        """Scores one picture.

        Args:
            prediction: what was predicted.
            record: its serialized record.

        Raises:
            DataError: the record, or the annotations of its picture, cannot be used.
        """
        table = self.table
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
        maps = (truth.id_map, truth.segments, id_map, segments)
        quality = self.quality.add(*maps, image=truth.image_id)
        if self.report is not None:
            self.report.add(truth.image_id, lambda: picture_of_record(record), *maps, quality)
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
            lookup[segment.id] = self.label_space.semantic_class_of_id[segment.category_id]
        return lookup[truth.id_map]

    def average_precision(self) -> dict[str, dict[str, float | None]]:
        """Returns {"box", "mask": see coco_average_precision} of the pictures scored."""
        ids = [image["id"] for image in self.images]
        annotations = self.annotations
        if annotations is None:
            annotations = {
                "images": self.images,
                "annotations": self.objects,
                "categories": [{"id": c.id, "name": c.name} for c in self.table.things],
            }
        return {
            "box": coco_average_precision(annotations, self.detections, "bbox", ids),
            "mask": coco_average_precision(annotations, self.detections, "segm", ids),
        }


def read_annotations(path: Path) -> dict[str, Any]:
    """Reads a COCO instances JSON.

    Raises:
        DataError: it is none.
    """
    value = read_json(path, "object annotations")
    lists = isinstance(value, dict) and all(
        isinstance(value.get(key), list) for key in ("images", "annotations", "categories")
    )
    if not lists or not all(isinstance(image, dict) and "id" in image for image in value["images"]):
        raise DataError(f"{path} is no COCO instances JSON.", "It needs images, annotations and categories.")
    return dict(value)
