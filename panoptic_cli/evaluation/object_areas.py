"""The area of an object, which decides whether COCO counts it as small, medium or large."""

from __future__ import annotations

_SMALL, _MEDIUM = 32**2, 96**2  # pixels: the largest area of each class
_FACTOR = 2  # polygons and their pixels differ by less


def is_wrong(stated: float, pixels: float) -> bool:
    """Whether an area is not that of an object's pixels, and would put it into another class of size."""
    far = stated > _FACTOR * pixels or pixels > _FACTOR * stated
    return far and _size_class(stated) != _size_class(pixels)


def is_doubtful(stated: float, width: float, height: float) -> bool:
    """Whether an area hardly fits into a box, so that the pixels need to be counted."""
    box = abs(width * height)
    return (stated > 1.1 * box or stated < 0.1 * box) and is_wrong(stated, box)


def _size_class(area: float) -> int:
    return (area > _SMALL) + (area > _MEDIUM)
