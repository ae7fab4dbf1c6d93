"""Segments as COCO's panoptic JSON lists them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from panoptic_cli.errors import DataError
from panoptic_cli.results.prediction import Segment


def read_segments(segments_info: Any, image: str | int, kind: str) -> list[Segment]:
    """Reads the `segments_info` of a COCO panoptic annotation.

    Args:
        segments_info: the list as parsed from JSON.
        image: name or id of the picture, for messages.
        kind: "ground truth" or "prediction", for messages.

    Raises:
        DataError: an entry has no integer id or category_id.
    """
    try:
        return [
            Segment(_integer(s["id"]), _integer(s["category_id"]), s.get("iscrowd", 0) == 1, s.get("area"))
            for s in segments_info
        ]
    except (TypeError, KeyError, ValueError, AttributeError, OverflowError):
        raise DataError(
            f"Image {image}: segments_info of the {kind} is not a list of objects with id and category_id.",
            "Each segment needs id and category_id, both whole numbers, as in COCO's panoptic format.",
        ) from None


def segment_entries(segment_map: np.ndarray, segments: Sequence[Segment]) -> list[dict[str, Any]]:
    """Describes segments as COCO's panoptic JSON does.

    Args:
        segment_map: integer [height, width] with ids 0 .. len(segments).
        segments: its segments, each with at least one pixel.

    Returns:
        One {"id", "category_id", "area" (pixels), "bbox" (x, y, width, height in pixels), "iscrowd"} per segment.
    """
    height, width = segment_map.shape
    boundaries = np.ones((height, width), bool)  # each row starts a run, so no run spans two rows
    np.not_equal(segment_map[:, 1:], segment_map[:, :-1], out=boundaries[:, 1:])
    starts = np.flatnonzero(boundaries)
    ids, lengths = segment_map.reshape(-1)[starts], np.diff(starts, append=segment_map.size)
    row, left = np.divmod(starts, width)
    count = int(ids.max(initial=0)) + 1
    area = np.bincount(ids, lengths, count).astype(np.int64)
    low = np.full((2, count), np.iinfo(np.int64).max)
    high = np.zeros((2, count), np.int64)
    for axis, (begin, end) in enumerate(((left, left + lengths), (row, row + 1))):
        np.minimum.at(low[axis], ids, begin)
        np.maximum.at(high[axis], ids, end)
    return [
        {
            "id": s.id,
            "category_id": s.category_id,
            "area": int(area[s.id]),
            "bbox": [*low[:, s.id].tolist(), *(high - low)[:, s.id].tolist()],
            "iscrowd": int(s.iscrowd),
        }
        for s in segments
    ]


def _integer(value: Any) -> int:
    """Returns a whole number from JSON; ValueError for other values, so that 5.5 or "5" is not read as 5."""
    if type(value) is int:
        return value
    if isinstance(value, str | bool) or int(value) != value:
        raise ValueError(f"{value!r} is not a whole number")
    return int(value)
