"""EXIF orientation: when a picture is turned, and how.

A picture is used as viewers show it: its EXIF orientation is applied. In a data set the annotations decide: where their
size fits only the stored pixels, these are used. Where it fits both, `Exif` decides, or else the other pictures of the
set (`coco.orientations`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from PIL import ExifTags, Image

Exif = Literal["apply", "ignore"]

TRANSPOSED = (5, 6, 7, 8)  # EXIF orientations that exchange width and height
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def turned_size(orientation: int, size: tuple[int, int]) -> tuple[int, int]:
    """Returns the (width, height) of a picture whose orientation is applied."""
    return size[::-1] if orientation in TRANSPOSED else size


def is_turned(orientation: int, stored: tuple[int, int], annotated: tuple[int, int], exif: Exif | None) -> bool | None:
    """Decides whether an annotated picture is turned.

    Args:
        orientation: its EXIF orientation, 1..8.
        stored: its (width, height) as stored.
        annotated: the (width, height) of its annotations.
        exif: whether to turn it where the annotations fit both ways; None is "apply".

    Returns:
        Whether the orientation is applied; None if the annotations fit neither.
    """
    fits_turned = turned_size(orientation, stored) == annotated
    if stored == annotated:
        return orientation != 1 and fits_turned and exif != "ignore"
    return True if fits_turned else None


def turn(picture: Image.Image, orientation: int) -> Image.Image:
    """Applies an orientation to the pixels of a picture."""
    return picture.transpose(_TURNS[orientation]) if orientation in _TURNS else picture


def orientation_of(picture: Image.Image) -> int:
    """Returns the EXIF orientation of an opened picture, 1..8; 1 (upright) if it has none or its EXIF is damaged.

    Pillow finds an orientation after the pixels of a PNG only once these are loaded.
    """
    for key in ("XML:com.adobe.xmp", "xmp"):  # Pillow would read them too, but viewers do not
        picture.info.pop(key, None)
    return _orientation(picture.getexif)


def orientation_in(exif: bytes) -> int:
    """Returns the orientation in EXIF data that begin with `Exif\\0\\0`, as `orientation_of` does."""

    def load() -> Image.Exif:
        loaded = Image.Exif()
        loaded.load(exif)
        return loaded

    return _orientation(load)


def _orientation(read: Callable[[], Image.Exif]) -> int:
    try:
        value = read().get(ExifTags.Base.Orientation, 1)
    except Exception:  # Pillow's EXIF parser raises many classes; the picture itself may still be good
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1
