"""Checks that data sets and records have in common: whether a picture decodes, and whether boxes fit masks."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

from panoptic_cli.images import png
from panoptic_cli.images.depth import is_deep
from panoptic_cli.images.orientation import orientation_of
from panoptic_cli.images.pillow import JPEG_FORMATS, decode, has_frames, open_picture

STUFF_IN_SEVERAL = "stuff category in several segments"
BOX_TOLERANCE = 1.0  # pixels; tools differ in whether a box ends at or after its last pixel

_END_OF_JPEG = b"\xff\xd9"
_TAIL = 64 * 1024  # bytes in which the end marker must be; some cameras append data after it
# COCO's object boxes come from polygons drawn by hand: on coco100 an edge is up to 19 pixels away from the mask's.
# If half of a box is elsewhere, the cause is not imprecise drawing.
_MIN_BOX_OVERLAP = 0.5
# COCO's object areas come from polygons drawn by hand. If an area is three times the mask's, the cause is not imprecise
# drawing.
_MAX_AREA_RATIO = 3.0
_SMALL_AREA = 64  # pixels; in smaller objects, rounding alone makes such differences
_SMALL_SIDE = 8  # pixels; in smaller boxes, rounding alone makes such differences


class PictureFacts(NamedTuple):
    """What decoding a picture shows.

    Attributes:
        format: Pillow's name of the format.
        size: (width, height) as stored.
        orientation: EXIF orientation, 1..8.
        digest: digest of the pixels.
        scaling: how more than 8 bits become 8, such as "divided by 16"; None for pictures of 8 bits.
        frames: whether it has several frames or pages.
    """

    format: str
    size: tuple[int, int]
    orientation: int
    digest: bytes
    scaling: str | None
    frames: bool


def examine_picture(encoded: bytes) -> PictureFacts:
    """Decodes a picture to find damage.

    The entropy-coded data of a JPEG are read completely but transformed at an eighth of the size. This saves a third of
    the time, and it suffices to find damage and to recognise the picture.

    Raises:
        ValueError: it cannot be decoded; says why.
    """
    with open_picture(encoded) as picture:
        image_format, size = picture.format or "", picture.size
        scaling = decode(encoded).scaling if is_deep(picture) else None
        frames = has_frames(picture)
        picture.draft(None, (1, 1))
        picture.load()
        orientation = orientation_of(picture)
        digest = hashlib.sha256(picture.tobytes()).digest()[:16]
    if image_format == "PNG":
        png.check_chunks(encoded)
    elif image_format in JPEG_FORMATS and encoded.rfind(_END_OF_JPEG, max(0, len(encoded) - _TAIL)) < 0:
        raise ValueError("it is cut short: the end marker is missing")
    return PictureFacts(image_format, size, orientation, digest, scaling, frames)


def boxes_differ(first: tuple[float, ...], second: tuple[float, ...]) -> bool:
    """Whether two (x, y, width, height) boxes differ by more than a pixel at any edge."""
    return any(abs(a - b) > BOX_TOLERANCE for a, b in zip(_edges(first), _edges(second), strict=True))


def box_misses_mask(box: tuple[float, ...], found: tuple[int, ...]) -> bool:
    """Whether an object's (x, y, width, height) box overlaps less than half with its mask's box."""
    if max(found[2:]) <= _SMALL_SIDE:
        return False
    one, other = _edges(box), _edges(found)
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(width, 0.0) * max(height, 0.0)
    return shared < _MIN_BOX_OVERLAP * (box[2] * box[3] + found[2] * found[3] - shared)


def areas_differ(stated: float, pixels: int) -> bool:
    """Whether an object's area is not that of its mask."""
    if max(stated, pixels) <= _SMALL_AREA:
        return False
    return not (pixels <= _MAX_AREA_RATIO * stated and stated <= _MAX_AREA_RATIO * pixels)


def _edges(box: tuple[float, ...]) -> tuple[float, float, float, float]:
    return box[0], box[1], box[0] + box[2], box[1] + box[3]
