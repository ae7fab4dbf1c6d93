"""The scores of an evaluation, accumulated picture by picture; needs no TensorFlow."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from panoptic_cli.categories import CategoryTable
from panoptic_cli.errors import DataError
from panoptic_cli.evaluation.coco_ap import coco_average_precision
from panoptic_cli.evaluation.groundtruth import GroundTruth
from panoptic_cli.evaluation.panoptic_quality import PanopticQuality
from panoptic_cli.evaluation.report_data import ReportData, picture_of_record
from panoptic_cli.evaluation.semantic_iou import SemanticIoU
from panoptic_cli.files import read_json
from panoptic_cli.results.coco_files import PredictionWriter
from panoptic_cli.results.detection_entries import detection_entries
from panoptic_cli.results.prediction import Prediction


@dataclass
class PictureScores:
    """Accumulates all figures of an evaluation.

    Attributes:
        table: the categories.
        writer: writes the predictions in COCO's formats; None to write none.
        annotations: COCO instances for box and mask AP; None for the objects of the records.
        report: collects what a report shows besides the figures; None for no report.
        quality: panoptic quality.
        semantic: IoU of the semantic head; None until a prediction has a semantic map.
        images: COCO's entry of each scored picture, in order.
        without_crowds: the number of records that do not mark crowds.
    """

    table: CategoryTable
    writer: PredictionWriter | None = None
    annotations: dict[str, Any] | None = None
    report: ReportData | None = None
    quality: PanopticQuality = field(init=False)
    semantic: SemanticIoU | None = None
    images: list[dict[str, Any]] = field(default_factory=list)
    without_crowds: int = 0
    _detections: list[dict[str, Any]] = field(default_factory=list)
    _objects: list[dict[str, Any]] = field(default_factory=list)
    _annotated: set[int | str] = field(init=False)  # ids of the pictures in `annotations`
    _seen: set[int | str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.quality = PanopticQuality(self.table)
        self._annotated = {image["id"] for image in self.annotations["images"]} if self.annotations else set()

    def add(self, prediction: Prediction, record: bytes) -> None:
        """Scores one picture.

        Args:
            prediction: the prediction.
            record: the picture's serialised record.

        Raises:
            DataError: the record, or the picture's annotations, cannot be used.
        """
        truth = GroundTruth.from_record(record, self.table, objects=self.annotations is None)
        if truth.image_id in self._seen:
            raise DataError(
                f"The validation records contain image {truth.image_id} twice.",
                "Check that the pattern of --eval-data matches one set of shards.",
            )
        if self.annotations is not None and truth.image_id not in self._annotated:
            raise DataError(
                f"Image {truth.image_id} of the records is not in the annotation file.",
                "Give --annotation-file the instances JSON of the validation pictures.",
            )
        self._seen.add(truth.image_id)
        self.without_crowds += not truth.has_crowds
        maps = (truth.id_map, truth.segments, prediction.segment_map, prediction.segments)
        quality = self.quality.add(*maps, image=truth.image_id)
        if self.report is not None:
            self.report.add(truth.image_id, lambda: picture_of_record(record), *maps, quality)
        if prediction.semantic_map is not None:
            self.semantic = self.semantic or SemanticIoU(self.table)
            self.semantic.add(truth.semantic_map(self.table), prediction.semantic_map)
        if self.writer is not None:
            detections = self.writer.add(truth.image_id, truth.file_name, prediction).detections
        else:
            detections = detection_entries(truth.image_id, prediction.detections, (truth.height, truth.width))
        self._detections.extend(detections)
        self.images.append({"id": truth.image_id, "height": truth.height, "width": truth.width})
        self._objects.extend(truth.objects)

    def average_precision(self) -> dict[str, dict[str, float | None]]:
        """Returns {"box", "mask"} of the scored pictures, see coco_average_precision."""
        ids = [image["id"] for image in self.images]
        annotations = self.annotations
        if annotations is None:
            annotations = {
                "images": self.images,
                "annotations": self._objects,
                "categories": [{"id": c.id, "name": c.name} for c in self.table.things],
            }
        return {
            "box": coco_average_precision(annotations, self._detections, "bbox", ids),
            "mask": coco_average_precision(annotations, self._detections, "segm", ids),
        }


def read_annotations(path: Path) -> dict[str, Any]:
    """Reads a COCO instances JSON.

    Raises:
        DataError: the file is missing or is not a COCO instances JSON.
    """
    value = read_json(path, "object annotations")
    lists = isinstance(value, dict) and all(
        isinstance(value.get(key), list) for key in ("images", "annotations", "categories")
    )
    if not lists or not all(
        isinstance(image, dict) and isinstance(image.get("id"), int | str) for image in value["images"]
    ):
        raise DataError(f"{path} is not a COCO instances JSON.", "It needs images, annotations and categories.")
    return dict(value)
