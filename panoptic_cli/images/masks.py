"""Label pictures: PNG encoding and decoding, segment maps, and drawing COCO's polygons and run lengths."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from panoptic_cli.images import png
from panoptic_cli.images.pillow import decode_samples
from panoptic_cli.images.run_lengths import draw_runs, runs_of

_LEAST_SHARE = 0.1  # of an object's pixels; others may be hidden by objects in front of it
_FILTER_NONE, _FILTER_UP = 0, 2  # PNG specification, section 9
_TRIANGLE = 6  # numbers of the smallest polygon
_FAR = 16.0  # polygons are clipped at this many times the picture's longer side


@dataclass(frozen=True)
class CroppedMask:
    """The mask of one object, cropped to the box of its pixels.

    Attributes:
        pixels: uint8 [h, w] of 0 and 1, C-contiguous; every edge row and column has a 1.
        top: the picture's row where the mask begins.
        left: the picture's column where the mask begins.
        height: height of the picture.
        width: width of the picture.
    """

    pixels: np.ndarray
    top: int
    left: int
    height: int
    width: int

    @property
    def box(self) -> tuple[int, int, int, int]:
        """(x, y, width, height) of the pixels that are 1."""
        return self.left, self.top, self.pixels.shape[1], self.pixels.shape[0]

    def whole(self) -> np.ndarray:
        """Returns the mask as large as the picture, uint8 [height, width]."""
        mask = np.zeros((self.height, self.width), np.uint8)
        x, y, w, h = self.box
        mask[y : y + h, x : x + w] = self.pixels
        return mask

    def to_png(self) -> bytes:
        """Encodes the mask as a PNG as large as the picture, like encode_png(self.whole())."""
        x, _, w, h = self.box
        rows = np.zeros((h, 1 + self.width), np.uint8)
        rows[:, 1 + x : 1 + x + w] = self.pixels
        return png.grey_png(rows, self.width, 8, above=self.top, below=self.height - self.top - h)


def encode_png(labels: np.ndarray) -> bytes:
    """Encodes a label picture as a single-channel PNG: 8 bits deep if all values are <= 255, otherwise 16.

    Label pictures are runs of equal values, so rows of 8 bits are stored unfiltered. Those of 16 bits are stored as
    differences to the row above (filter Up), which are mostly zeros: equal values of two bytes are no run of bytes.
    Trying filters for each row, as Pillow does, takes longer.

    Args:
        labels: [height, width], any integer or boolean dtype, values 0..65535.

    Raises:
        ValueError: no pixels, not two-dimensional, or values outside 0..65535.
    """
    if labels.ndim != 2 or labels.size == 0:
        raise ValueError(f"a label picture must be two-dimensional and not empty; the shape is {labels.shape}")
    if labels.dtype == np.bool_:
        labels = labels.view(np.uint8)
    if labels.dtype != np.uint8 and (labels.min() < 0 or labels.max() > 65535):
        raise ValueError(f"labels {labels.min()}..{labels.max()} do not fit 16 bits")
    wide = labels.dtype != np.uint8 and labels.max() > 255
    height, width = labels.shape
    rows = np.empty((height, 1 + width * (2 if wide else 1)), np.uint8)
    if wide:
        samples = labels.astype(">u2", order="C").view(np.uint8)
        rows[:, 0] = _FILTER_UP
        rows[0, 1:] = samples[0]
        np.subtract(samples[1:], samples[:-1], out=rows[1:, 1:])
    else:
        rows[:, 0] = _FILTER_NONE
        rows[:, 1:] = labels
    return png.grey_png(rows, width, 16 if wide else 8)


def decode_png(data: bytes) -> np.ndarray:
    """Decodes a single-channel PNG.

    Returns:
        int32 [height, width].

    Raises:
        ValueError: the bytes are not a picture, are cut short, or have several channels.
    """
    pixels = decode_samples(data)
    if pixels.ndim != 2:
        raise ValueError(f"it has {pixels.shape[-1]} channels instead of one")
    return pixels.astype(np.int32)


@dataclass(frozen=True)
class SegmentRuns:
    """A segment map as runs of equal pixels in reading order: about one run for 100 pixels.

    Attributes:
        places: uint16 [runs], 1-based places in the list of segments; 0 for unlabelled pixels.
        lengths: int64 [runs], pixels.
        shape: (height, width) of the picture.
    """

    places: np.ndarray
    lengths: np.ndarray
    shape: tuple[int, int]

    def paint(self, lookup: np.ndarray) -> np.ndarray:
        """Returns lookup[place] for every pixel, [height, width] in the dtype of `lookup`."""
        return np.repeat(lookup[self.places], self.lengths).reshape(self.shape)

    def areas(self, segments: int) -> np.ndarray:
        """Counts the pixels of each segment: int64 [segments + 1], unlabelled pixels first."""
        return np.bincount(self.places, self.lengths, segments + 1).astype(np.int64)


def segment_runs(ids: np.ndarray, segment_ids: Sequence[int]) -> tuple[SegmentRuns, list[int]]:
    """Replaces segment ids by the 1-based places of the segments.

    Args:
        ids: uint32 [height, width], as panoptic_png.read_segment_ids returns them.
        segment_ids: distinct, 1..2^24-1, fewer than 65,535.

    Returns:
        The map, and the sorted ids that are in the picture but not in the list (their places are 0).
    """
    flat = ids.ravel()
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    lengths = np.diff(starts, append=flat.size)
    keys = np.array([0, *segment_ids], np.uint32)
    order = np.argsort(keys)
    values = flat[starts]
    found = np.minimum(np.searchsorted(keys, values, sorter=order), len(keys) - 1)
    places = order[found]
    known = keys[places] == values
    strangers = [] if known.all() else np.unique(values[~known]).tolist()
    places = np.where(known, places, 0).astype(np.uint16)
    return SegmentRuns(places, lengths, (ids.shape[0], ids.shape[1])), strangers


def draw_segmentation(segmentation: Any, height: int, width: int) -> CroppedMask | None:
    """Draws a COCO segmentation, pixel for pixel as pycocotools does.

    Args:
        segmentation: a list of polygons [x0, y0, x1, y1, ...] in pixels, or a run-length object
            {"size": [height, width], "counts": list or compressed string}.
        height: height of the picture.
        width: width of the picture.

    Returns:
        The mask, None if it has no pixels. Polygons are clipped at the picture's edge.

    Raises:
        ValueError: the segmentation has neither form, or its size is not the picture's.
    """
    if isinstance(segmentation, list):
        segmentation = _polygons(segmentation, height, width)
        if segmentation is None:
            return None
    elif not isinstance(segmentation, dict):
        raise ValueError("segmentation is neither a list of polygons nor a run-length object")
    drawn = draw_runs(runs_of(segmentation, height, width), height)
    return None if drawn is None else CroppedMask(*drawn, height, width)


def _polygons(polygons: list[Any], height: int, width: int) -> dict[str, Any] | None:
    """Returns the run-length object of polygons, None if none of them has an area."""
    corners = []
    limit = _FAR * max(height, width)
    for polygon in polygons:
        if not isinstance(polygon, list) or len(polygon) % 2:
            raise ValueError("a polygon is not a list of x, y pairs")
        coordinates = None
        if set(map(type, polygon)) <= {int, float}:  # exact types: JSON has no subclasses, and a bool is not a number
            with contextlib.suppress(OverflowError):
                coordinates = np.array(polygon, np.float64)
        if coordinates is None or not np.isfinite(coordinates).all():
            raise ValueError("a polygon has coordinates that are not finite numbers")
        if (
            len(polygon) >= _TRIANGLE
        ):  # fewer than three corners have no area, and pycocotools reads four numbers as a box
            # pycocotools walks along every edge, so far-off corners would cost time and memory.
            corners.append(np.clip(coordinates, -limit, limit))
    if not corners:
        return None
    drawn = [coco_mask.frPyObjects([polygon], height, width)[0] for polygon in corners]
    return drawn[0] if len(drawn) == 1 else coco_mask.merge(drawn)


def is_astray(mask: CroppedMask, labels: np.ndarray, label: int) -> bool:
    """Whether hardly any of a mask's pixels have its label.

    Args:
        mask: the mask of an object.
        labels: integer [height, width], the label of each pixel.
        label: the object's label.
    """
    x, y, w, h = mask.box
    found = np.count_nonzero((labels[y : y + h, x : x + w] == label) & (mask.pixels > 0))
    return bool(found < _LEAST_SHARE * np.count_nonzero(mask.pixels))


def listed_polygons(segmentation: Any) -> tuple[Any, str | None]:
    """Returns a COCO segmentation whose polygons are not in COCO's form as a list of lists of numbers.

    Returns:
        The segmentation; and what was put right, for a polygon [x0, y0, x1, y1, ...] without a list around it, for one
        of pairs [[x0, y0], [x1, y1], ...], and for coordinates that are written as text.
    """
    if not isinstance(segmentation, list):
        return segmentation, None
    if any(isinstance(x, str) or (isinstance(x, list) and str in map(type, x)) for x in segmentation):
        numbers = _as_numbers(segmentation)
        return (segmentation, None) if numbers is None else (listed_polygons(numbers)[0], "coordinates written as text")
    if len(segmentation) < _TRIANGLE // 2:
        return segmentation, None
    if all(type(number) in (int, float) for number in segmentation):
        return [segmentation], "polygons that are not in a list"
    if all(isinstance(pair, list) and len(pair) == 2 for pair in segmentation):
        return [[number for pair in segmentation for number in pair]], "polygons of x, y pairs"
    return segmentation, None


def _as_numbers(value: list[Any]) -> list[Any] | None:
    """Returns nested lists with numbers in place of text; None if a text is no number."""
    try:
        return [[float(x) for x in part] if isinstance(part, list) else float(part) for part in value]
    except (TypeError, ValueError, OverflowError):
        return None


def short_polygons(segmentation: Any) -> int:
    """Counts the polygons of a COCO segmentation that have fewer than three points, which `draw_segmentation` omits."""
    polygons = segmentation if isinstance(segmentation, list) else []
    return sum(isinstance(polygon, list) and len(polygon) < _TRIANGLE for polygon in polygons)


def rasterize(segmentation: Any, height: int, width: int) -> np.ndarray:
    """Draws like `draw_segmentation`, but returns uint8 [height, width] of 0 and 1."""
    drawn = draw_segmentation(segmentation, height, width)
    return np.zeros((height, width), np.uint8) if drawn is None else drawn.whole()


def crop(mask: np.ndarray) -> CroppedMask | None:
    """Crops a mask, [height, width] of booleans or 0 and 1, to its box; None if it has no pixels."""
    box = box_of_mask(mask)
    if box is None:
        return None
    x, y, w, h = box
    pixels = mask[y : y + h, x : x + w].astype(np.uint8, order="C")
    return CroppedMask(pixels, y, x, *mask.shape)


def box_of_mask(mask: np.ndarray) -> tuple[int, int, int, int] | None:
    """Returns (x, y, width, height) of the pixels that are not 0, None if there are none."""
    rows = np.flatnonzero(mask.any(axis=1))
    if rows.size == 0:
        return None
    columns = np.flatnonzero(mask[rows[0] : rows[-1] + 1].any(axis=0))
    return (
        int(columns[0]),
        int(rows[0]),
        int(columns[-1] - columns[0] + 1),
        int(rows[-1] - rows[0] + 1),
    )
