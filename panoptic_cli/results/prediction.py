"""What a network found in one picture, at the picture's own size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from panoptic_cli.categories import VOID_ID


@dataclass(frozen=True)
class Segment:
    """One segment of a panoptic map.

    Attributes:
        id: its value in the map, 1 .. 2**24 - 1.
        category_id: its category.
        iscrowd: whether it covers several things without separating them; only in ground truth.
        area: its number of pixels; None if unknown.
    """

    id: int
    category_id: int
    iscrowd: bool = False
    area: int | None = None


@dataclass(frozen=True)
class Detections:
    """The objects that a network detected, best first; they may overlap.

    Attributes:
        boxes: float32 [n, 4], (y1, x1, y2, x2) in pixels of the picture.
        scores: float32 [n], 0..1, descending.
        category_ids: int64 [n].
        masks: n arrays of COCO's run lengths: pixels of 0 and 1 in turn, starting with 0, down the columns.
    """

    boxes: np.ndarray
    scores: np.ndarray
    category_ids: np.ndarray
    masks: list[np.ndarray]


@dataclass(frozen=True)
class Prediction:
    """The panoptic prediction of one picture.

    Every category id in it exists in the data set's table: the network turns others into void.

    Attributes:
        segment_map: int32 [height, width], the id of each pixel's segment; 0 for void.
        segments: the segments with ids 1, 2, ..., ordered by category and detection; each has its area, at least 1.
        detections: the objects.
        detection_of_segment: int32 [len(segments)], 1-based place of a thing's detection; 0 for stuff.
        semantic_map: int32 [height, width], the semantic head's own result: category ids of stuff, ANY_THING or
            VOID_ID; None for networks without such a head.
    """

    segment_map: np.ndarray
    segments: list[Segment]
    detections: Detections
    detection_of_segment: np.ndarray
    semantic_map: np.ndarray | None = None

    @property
    def category_map(self) -> np.ndarray:
        """int32 [height, width], category ids; 0 for void."""
        return np.array([VOID_ID, *(s.category_id for s in self.segments)], np.int32)[self.segment_map]

    @property
    def instance_map(self) -> np.ndarray:
        """int32 [height, width], 1-based place of the detection; 0 for stuff and void."""
        return np.concatenate(([0], self.detection_of_segment)).astype(np.int32)[self.segment_map]
