"""The scores of an evaluation, accumulated picture by picture; needs no TensorFlow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from panoptic_cli import console
from panoptic_cli.categories import CategoryTable
from panoptic_cli.errors import DataError, one_line
from panoptic_cli.evaluation.annotation_file import InstanceAnnotations
from panoptic_cli.evaluation.coco_ap import AveragePrecision, coco_average_precision
from panoptic_cli.evaluation.groundtruth import GroundTruth
from panoptic_cli.evaluation.panoptic_quality import PanopticQuality
from panoptic_cli.evaluation.report_data import ReportData, picture_of_record
from panoptic_cli.evaluation.semantic_iou import SemanticIoU
from panoptic_cli.results.coco_files import PredictionWriter
from panoptic_cli.results.detection_entries import detection_entries
from panoptic_cli.results.prediction import Prediction


@dataclass
class PictureScores:
    """Accumulates all figures of an evaluation.

    Attributes:
        table: the categories.
        writer: writes the predictions in COCO's formats; None to write none.
        annotations: objects for box and mask AP; None for those of the records.
        categories: {category id in the records: id in the table}; None if they are the same.
        report: collects what a report shows besides the figures; None for no report.
        quality: panoptic quality.
        semantic: IoU of the semantic head; None until a prediction has a semantic map.
        images: COCO's entry of each scored picture, in order.
        without_crowds: the number of records that do not mark crowds.
        recounted: the number of objects whose area is counted, because the record states a wrong one.
    """

    table: CategoryTable
    writer: PredictionWriter | None = None
    annotations: InstanceAnnotations | None = None
    categories: Mapping[int, int] | None = None
    report: ReportData | None = None
    quality: PanopticQuality = field(init=False)
    semantic: SemanticIoU | None = None
    images: list[dict[str, Any]] = field(default_factory=list)
    without_crowds: int = 0
    recounted: int = 0
    _detections: list[dict[str, Any]] = field(default_factory=list)
    _objects: list[dict[str, Any]] = field(default_factory=list)
    _annotated: set[int | str] = field(init=False)  # ids of the pictures in `annotations`
    _seen: set[int | str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.quality = PanopticQuality(self.table)
        self._annotated = {image["id"] for image in self.annotations.images} if self.annotations else set()

    def add(self, prediction: Prediction, record: bytes) -> None:
        """Scores one picture.

        Args:
            prediction: the prediction.
            record: the picture's serialised record.

        Raises:
            DataError: the record cannot be used; nothing was added.
        """
        objects = self.annotations is None
        truth = GroundTruth.from_record(record, self.table, objects=objects, categories=self.categories)
        if truth.image_id in self._seen:
            raise DataError(
                f"The validation records contain image {truth.image_id} twice.",
                "Check that the pattern of --eval-data matches one set of shards.",
            )
        if self.annotations is not None and truth.image_id not in self._annotated:
            raise DataError(f"Image {truth.image_id} of the records is not in the annotation file.")
        maps = (truth.id_map, truth.segments, prediction.segment_map, prediction.segments)
        quality = self.quality.add(*maps, image=truth.image_id)
        self._seen.add(truth.image_id)
        self.without_crowds += not truth.has_crowds
        self.recounted += truth.recounted
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

    def average_precision(self) -> tuple[AveragePrecision, AveragePrecision]:
        """Returns the figures of boxes and of masks for the scored pictures, see coco_average_precision.

        What cannot be computed is None, with a warning that says why: the other figures are worth having without it.
        """
        return self._average_precision("box", "bbox"), self._average_precision("mask", "segm")

    def _average_precision(self, name: str, iou_type: Literal["bbox", "segm"]) -> AveragePrecision:
        try:
            if self.annotations is not None:
                truth = self.annotations.to_coco(self.table, masks=iou_type == "segm")
            else:
                things = [{"id": c.id, "name": c.name} for c in self.table.things]
                truth = {"images": self.images, "annotations": self._objects, "categories": things}
            return coco_average_precision(truth, self._detections, iou_type, [image["id"] for image in self.images])
        except Exception as error:  # pycocotools raises whatever its C code does not expect
            reason = error.message if isinstance(error, DataError) else f"{type(error).__name__}: {one_line(error)}."
            console.warn(f"The {name} AP cannot be computed: {reason}")
            return AveragePrecision.unknown()
