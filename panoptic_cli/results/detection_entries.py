"""Detections and their masks as COCO's results format lists them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as mask_utils

from panoptic_cli.results.prediction import Detections


def detection_entries(
    image_id: int | str, detections: Detections, size: tuple[int, int], min_score: float | None = None
) -> list[dict[str, Any]]:
    """Describes the detections of one picture in COCO's results format.

    Args:
        image_id: the data set's id of the picture.
        detections: the objects.
        size: (height, width) of the picture.
        min_score: only detections with a greater score; None for all.

    Returns:
        One {"image_id", "category_id", "bbox" (x, y, width, height in pixels), "score", "segmentation"} per
        detection, ready for JSON.
    """
    kept = np.arange(len(detections.scores))
    if min_score is not None:
        kept = kept[detections.scores > min_score]
    y1, x1, y2, x2 = np.asarray(detections.boxes[kept], np.float64).reshape(-1, 4).T
    boxes = np.stack((x1, y1, x2 - x1, y2 - y1), axis=1).round(3).tolist()
    masks = compress_masks([detections.masks[i] for i in kept.tolist()], size)
    return [
        {"image_id": image_id, "category_id": category, "bbox": box, "score": score, "segmentation": mask}
        for category, box, score, mask in zip(
            detections.category_ids[kept].tolist(), boxes, detections.scores[kept].tolist(), masks, strict=True
        )
    ]


def compress_masks(run_lengths: Sequence[np.ndarray], size: tuple[int, int]) -> list[dict[str, Any]]:
    """Compresses masks to COCO's strings.

    Args:
        run_lengths: of each mask, pixels of 0 and 1 in turn, starting with 0, down the columns.
        size: (height, width) of the picture.

    Returns:
        {"size": [height, width], "counts": str} per mask, ready for JSON.
    """
    if not run_lengths:
        return []
    height, width = (int(side) for side in size)
    plain = [{"size": [height, width], "counts": counts} for counts in run_lengths]
    compressed = mask_utils.frPyObjects(plain, height, width)
    return [{"size": [height, width], "counts": mask["counts"].decode("ascii")} for mask in compressed]
