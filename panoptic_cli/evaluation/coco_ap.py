"""Average precision and recall of boxes and masks, as COCO measures them, by pycocotools."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from panoptic_cli.errors import DataError, listed

# The order of COCOeval.stats for boxes and masks.
METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


@dataclass(frozen=True)
class AveragePrecision:
    """COCO's figures of boxes or of masks, each in 0..1.

    Attributes:
        figures: {"AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"}; None if there
            is no object to find (at all, or of that size). Sizes are areas: small is below 32**2 pixels, medium below
            96**2, large the rest.
        per_class: {category id: AP} of each category of the ground truth; None for those without an object to find,
            which do not count in figures["AP"], the mean of the others.
    """

    figures: dict[str, float | None]
    per_class: dict[int, float | None]

    @classmethod
    def unknown(cls, category_ids: Sequence[int] = ()) -> AveragePrecision:
        """Returns None for every figure."""
        return cls(dict.fromkeys(METRICS), dict.fromkeys(category_ids))


def coco_average_precision(
    groundtruth: Mapping[str, Any],
    detections: Sequence[Mapping[str, Any]],
    iou_type: Literal["bbox", "segm"],
    image_ids: Sequence[int | str] | None = None,
) -> AveragePrecision:
    """Computes COCO's twelve figures, and the AP of each category.

    Args:
        groundtruth: a COCO instances JSON: `images`, `annotations` (bbox, area, iscrowd, segmentation as RLE
            or polygons) and `categories`. Not changed.
        detections: COCO results: image_id, category_id, score, and bbox (x, y, width, height in pixels) for
            "bbox" or segmentation (RLE) for "segm". Not changed.
        iou_type: whether to compare boxes or masks.
        image_ids: the pictures to score; None for all in `groundtruth`. Detections in other pictures are ignored.

    Raises:
        DataError: the ground truth or a detection lacks a field that `iou_type` needs, or a detection belongs to a
            picture that is not in the ground truth.
    """
    truth = _groundtruth(groundtruth, iou_type)
    known = {image["id"] for image in truth["images"]}
    chosen = known if image_ids is None else set(image_ids)
    if not chosen <= known:
        raise DataError(f"Image {_in_order(chosen - known)[0]} is not in the ground truth's images.")
    found = _detections(detections, iou_type, known, chosen)
    # COCOeval puts the ids into one array, which would turn numbers into strings if some ids are strings.
    number_of = {image_id: number for number, image_id in enumerate(_in_order(chosen), start=1)}
    truth["images"] = [{**i, "id": number_of[i["id"]]} for i in truth["images"] if i["id"] in chosen]
    truth["annotations"] = _numbered(truth["annotations"], number_of)
    found = _numbered(found, number_of)
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        evaluation = COCOeval(_coco(truth), _coco({**truth, "annotations": found}), iou_type)
        evaluation.params.imgIds = sorted(number_of.values())
        evaluation.params.catIds = sorted({category["id"] for category in truth["categories"]})
        if not chosen or not evaluation.params.catIds:
            return AveragePrecision.unknown(evaluation.params.catIds)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    # -1 means "nothing to find".
    figures = {name: float(v) if v >= 0 else None for name, v in zip(METRICS, evaluation.stats, strict=True)}
    return AveragePrecision(figures, _of_categories(evaluation))


def _of_categories(evaluation: COCOeval) -> dict[int, float | None]:
    """Returns the AP of each category: over all IoU thresholds and recalls, objects of all sizes."""
    # [IoU threshold, recall, category, size, largest number of detections]: all sizes are first, 100 detections last.
    precision = np.asarray(evaluation.eval["precision"])[:, :, :, 0, -1]
    found = {}
    for place, category_id in enumerate(evaluation.params.catIds):
        values = precision[:, :, place]
        values = values[values >= 0]
        found[int(category_id)] = float(values.mean()) if values.size else None
    return found


def _in_order(image_ids: set[int | str]) -> list[int | str]:
    """Sorts ids: numbers first, then names."""
    return sorted(image_ids, key=lambda i: (isinstance(i, str), i))


def _numbered(entries: list[dict[str, Any]], number_of: Mapping[int | str, int]) -> list[dict[str, Any]]:
    """Returns the annotations or detections of some pictures, with their image ids replaced by numbers."""
    return [{**e, "image_id": number_of[e["image_id"]]} for e in entries if e["image_id"] in number_of]


def _coco(dataset: dict[str, Any]) -> COCO:
    coco = COCO()
    coco.dataset = dataset
    coco.createIndex()
    return coco


def _groundtruth(groundtruth: Mapping[str, Any], iou_type: str) -> dict[str, Any]:
    missing = [key for key in ("images", "annotations", "categories") if key not in groundtruth]
    if missing:
        raise DataError(
            f"The object annotations have no {listed(missing)}.",
            "Give a COCO instances JSON (instances_*.json).",
        )
    needed = ("image_id", "category_id", "bbox", "area", *(["segmentation"] if iou_type == "segm" else []))
    annotations = []
    for number, annotation in enumerate(groundtruth["annotations"], start=1):
        if lacking := [key for key in needed if key not in annotation]:
            raise DataError(
                f"Object annotation {annotation.get('id', number)} of image "
                f"{annotation.get('image_id', '?')} has no {listed(lacking)}."
            )
        # Copies, because COCOeval writes into them; numbered from 1, because it reads the id 0 as "not matched".
        annotations.append({"iscrowd": 0, **annotation, "id": number})
    return {
        "images": list(groundtruth["images"]),
        "annotations": annotations,
        "categories": list(groundtruth["categories"]),
    }


def _detections(
    detections: Sequence[Mapping[str, Any]], iou_type: str, known: set[int | str], chosen: set[int | str]
) -> list[dict[str, Any]]:
    entries = []
    geometry = "bbox" if iou_type == "bbox" else "segmentation"
    for number, detection in enumerate(detections, start=1):
        if lacking := [k for k in ("image_id", "category_id", "score", geometry) if k not in detection]:
            raise DataError(f"Detection {number} has no {listed(lacking)}.")
        image_id = detection["image_id"]
        if image_id not in known:
            raise DataError(f"Detection {number} belongs to image {image_id}, which is not in the ground truth.")
        if image_id not in chosen:
            continue
        entry = {key: detection[key] for key in ("image_id", "category_id", "score", geometry)}
        # The size class of a detection is that of its box or of its mask, whichever is compared.
        if iou_type == "bbox":
            area = float(entry["bbox"][2] * entry["bbox"][3])
        else:
            area = float(mask_utils.area(entry["segmentation"]))
        entries.append({**entry, "area": area, "iscrowd": 0, "id": number})
    return entries
