"""Opening pictures with Pillow: the one place that knows how it fails.

Pillow reports damage by many classes of error. Everything here raises ValueError with a reason on one line.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from panoptic_cli.errors import one_line

TRANSPOSED = (5, 6, 7, 8)  # EXIF orientations that exchange width and height


@contextmanager
def open_picture(encoded: bytes) -> Iterator[Image.Image]:
    """Opens an encoded picture. Failures inside the block become a ValueError too, because Pillow decodes lazily.

    Raises:
        ValueError: the bytes are not a picture, or the picture is damaged or too large.
    """
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(encoded)) as picture:
            yield picture
    except UnidentifiedImageError:
        raise ValueError("its format is not known" if encoded else "it is empty") from None
    except MemoryError:
        raise
    except Exception as error:
        raise ValueError(one_line(error, 120)) from None


def decode_picture(encoded: bytes, *, upright: bool = False) -> np.ndarray:
    """Decodes a picture to RGB. Greyscale is repeated, alpha is dropped, and of 16 bits the upper eight are kept.

    Args:
        encoded: a file of any format that Pillow reads.
        upright: turn the picture as its EXIF orientation says; otherwise the pixels are returned as stored.

    Returns:
        uint8 [height, width, 3].

    Raises:
        ValueError: the bytes are not a picture, or the picture is damaged or too large.
    """
    with open_picture(encoded) as opened:
        picture = ImageOps.exif_transpose(opened) if upright else opened
        if picture.mode.startswith("I") or picture.mode == "F":  # 16 bits and more: convert() would clip at 255
            values = np.asarray(picture, np.float64)
            scale = 256.0 if values.max(initial=0.0) > 255 else 1.0
            grey = np.clip(np.floor(values / scale), 0, 255).astype(np.uint8)
            return np.repeat(grey[..., None], 3, axis=-1)
        return np.asarray(picture.convert("RGB"))


def decode_samples(encoded: bytes) -> np.ndarray:
    """Decodes a picture without changing its samples; a palette becomes its colours.

    Returns:
        [height, width] or [height, width, channels] in the dtype of the file.

    Raises:
        ValueError: the bytes are not a picture, or the picture is damaged or too large.
    """
    with open_picture(encoded) as picture:
        return np.asarray(picture.convert("RGB") if picture.mode == "P" else picture)


def orientation_of(picture: Image.Image) -> int:
    """Returns the EXIF orientation of an opened picture, 1..8; 1 (upright) if it has none or its EXIF is damaged."""
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
    except Exception:  # Pillow's EXIF parser raises many classes too; the picture itself may still be good
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1
