"""Average precision and recall of boxes and masks as COCO measures them, through pycocotools."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from panoptic_cli.errors import DataError

# The order of COCOeval.stats for boxes and masks.
METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


def coco_average_precision(
    groundtruth: Mapping[str, Any],
    detections: Sequence[Mapping[str, Any]],
    iou_type: Literal["bbox", "segm"],
    image_ids: Sequence[int | str] | None = None,
) -> dict[str, float | None]:
    """Computes COCO's twelve figures.

    Args:
        groundtruth: a COCO instances JSON: `images`, `annotations` (bbox, area, iscrowd, segmentation as RLE
            or polygons) and `categories`. It is not changed.
        detections: COCO results: image_id, category_id, score, and bbox (x, y, width, height in pixels) for
            "bbox" or segmentation (RLE) for "segm". They are not changed.
        iou_type: overlap of boxes or of masks.
        image_ids: the pictures that count; None for all in `groundtruth`. Detections in others are left out.

    Returns:
        {"AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"}, each in
        0..1, or None where there is no ground truth to find (none at all, or none of that size). Sizes are by
        area: small below 32**2 pixels, medium below 96**2, large the rest.

    Raises:
        DataError: the ground truth or a detection lacks what `iou_type` needs, or a detection is of a picture
            that the ground truth does not have.
    """
    truth = _groundtruth(groundtruth, iou_type)
    known = {image["id"] for image in truth["images"]}
    wanted = known if image_ids is None else set(image_ids)
    if not wanted <= known:
        raise DataError(f"Image {_in_order(wanted - known)[0]} is not in the ground truth's images.")
    found = _detections(detections, iou_type, known, wanted)
    # COCOeval keeps ids in an array, where numbers beside names would become names.
    number_of = {image_id: number for number, image_id in enumerate(_in_order(wanted), start=1)}
    truth["images"] = [{**i, "id": number_of[i["id"]]} for i in truth["images"] if i["id"] in wanted]
    truth["annotations"] = _numbered(truth["annotations"], number_of)
    found = _numbered(found, number_of)
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        evaluation = COCOeval(_coco(truth), _coco({**truth, "annotations": found}), iou_type)
        evaluation.params.imgIds = sorted(number_of.values())
        evaluation.params.catIds = sorted({category["id"] for category in truth["categories"]})
        if not wanted or not evaluation.params.catIds:
            return dict.fromkeys(METRICS)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    # -1 stands for "nothing to find"; an average over nothing is no figure.
    return {name: float(value) if value >= 0 else None for name, value in zip(METRICS, evaluation.stats, strict=True)}


def _in_order(image_ids: set[int | str]) -> list[int | str]:
    """Numbers first, then names."""
    return sorted(image_ids, key=lambda i: (isinstance(i, str), i))


def _numbered(entries: list[dict[str, Any]], number_of: Mapping[int | str, int]) -> list[dict[str, Any]]:
    """The annotations or detections of some pictures, with numbers for the pictures' ids."""
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
            f"The object annotations have no {', '.join(missing)}.",
            "Give a COCO instances JSON (instances_*.json).",
        )
    needed = ("image_id", "category_id", "bbox", "area", *(["segmentation"] if iou_type == "segm" else []))
    annotations = []
    for number, annotation in enumerate(groundtruth["annotations"], start=1):
        if lacking := [key for key in needed if key not in annotation]:
            raise DataError(
                f"Object annotation {annotation.get('id', number)} of image "
                f"{annotation.get('image_id', '?')} has no {', '.join(lacking)}."
            )
        # Copies, because COCOeval writes into them; numbered from 1, because it takes the id 0 for "not
        # matched".
        annotations.append({"iscrowd": 0, **annotation, "id": number})
    return {
        "images": list(groundtruth["images"]),
        "annotations": annotations,
        "categories": list(groundtruth["categories"]),
    }


def _detections(
    detections: Sequence[Mapping[str, Any]], iou_type: str, known: set[int | str], wanted: set[int | str]
) -> list[dict[str, Any]]:
    entries = []
    geometry = "bbox" if iou_type == "bbox" else "segmentation"
    for number, detection in enumerate(detections, start=1):
        if lacking := [k for k in ("image_id", "category_id", "score", geometry) if k not in detection]:
            raise DataError(f"Detection {number} has no {', '.join(lacking)}.")
        image_id = detection["image_id"]
        if image_id not in known:
            raise DataError(f"Detection {number} is of image {image_id}, which the ground truth does not have.")
        if image_id not in wanted:
            continue
        entry = {key: detection[key] for key in ("image_id", "category_id", "score", geometry)}
        # The size class of a detection follows what is compared: the box's area or the mask's.
        if iou_type == "bbox":
            area = float(entry["bbox"][2] * entry["bbox"][3])
        else:
            area = float(mask_utils.area(entry["segmentation"]))
        entries.append({**entry, "area": area, "iscrowd": 0, "id": number})
    return entries


def paste_masks_rle(
    masks: np.ndarray, boxes: np.ndarray, height: int, width: int, threshold: float = 0.5
) -> list[dict[str, Any]]:
    """Pastes instance masks at the picture's own size and encodes them.

    The value at a pixel is the bilinear sample of the mask at ((x + 0.5 - x1) / (x2 - x1)) * M - 0.5,
    likewise in y, with zeros around the mask. Only the pixels that a mask can reach are computed.

    Args:
        masks: float [N, M, M], probabilities inside each box; M is 28 in the published networks.
        boxes: float [N, 4], y1, x1, y2, x2 in pixels; they may reach out of the picture.
        height: pixels.
        width: pixels.
        threshold: a pixel belongs to the instance where its value is greater.

    Returns:
        N run-length encodings {"size": [height, width], "counts": str}, ready for JSON. A box without area,
        or not finite, gives an empty mask.
    """
    return [
        _encode(*_paste(mask, box, height, width, threshold), height, width)
        for mask, box in zip(np.asarray(masks), np.asarray(boxes, np.float64), strict=True)
    ]


def _paste(mask: np.ndarray, box: np.ndarray, height: int, width: int, threshold: float) -> tuple[np.ndarray, int, int]:
    """Returns bool [h, w], the part of the picture that the mask reaches, and its first row and column."""
    y1, x1, y2, x2 = box.tolist()
    if not np.isfinite(box).all() or y2 <= y1 or x2 <= x1:
        return np.zeros((0, 0), bool), 0, 0
    top, rows = _interpolation(y1, y2, mask.shape[0], height)
    left, columns = _interpolation(x1, x2, mask.shape[1], width)
    return rows @ mask.astype(np.float64) @ columns.T > threshold, top, left


def _interpolation(start: float, end: float, cells: int, size: int) -> tuple[int, np.ndarray]:
    """Bilinear weights along one axis: the first pixel within reach, and float64 [pixels, cells]."""
    reach = 0.5 * (end - start) / cells  # beyond the border cells' centres values fade to zero over one cell
    first = max(0, int(np.floor(start - reach)))
    last = min(size, int(np.ceil(end + reach)))
    if last <= first:
        return 0, np.zeros((0, cells))
    place = (np.arange(first, last) + 0.5 - start) / (end - start) * cells - 0.5
    return first, np.maximum(0.0, 1.0 - np.abs(place[:, None] - np.arange(cells)))


def _encode(part: np.ndarray, top: int, left: int, height: int, width: int) -> dict[str, Any]:
    """Encodes a part of an otherwise empty picture; COCO's runs go down the columns, zeros first."""
    columns = part.shape[1]
    strip = np.zeros((columns, height), bool)
    strip[:, top : top + part.shape[0]] = part.T
    padded = np.concatenate(([False], strip.reshape(-1), [False]))
    turns = np.flatnonzero(padded[1:] != padded[:-1]) + left * height
    counts = np.diff(turns, prepend=0, append=height * width)
    if counts.size > 1 and counts[-1] == 0:
        counts = counts[:-1]
    encoded = mask_utils.frPyObjects({"size": [height, width], "counts": counts.tolist()}, height, width)
    return {"size": [height, width], "counts": encoded["counts"].decode("ascii")}
