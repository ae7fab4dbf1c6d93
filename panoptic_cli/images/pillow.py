"""Opening pictures with Pillow: the one place that knows how it fails.

Pillow reports damage by many classes of error. Everything here raises ValueError with a reason on one line.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from panoptic_cli.errors import one_line
from panoptic_cli.images.depth import exchange_bytes, is_deep, to_eight_bits
from panoptic_cli.images.limits import TooLargeError, check_size
from panoptic_cli.images.orientation import Exif, is_turned, orientation_of, turn

Image.MAX_IMAGE_PIXELS = None  # `limits` is checked instead

JPEG_FORMATS = ("JPEG", "MPO")  # Pillow's names; an MPO is a JPEG with more pictures after the first
FRAMES_NOTE = "pictures of several frames or pages, of which the first is used"


class Decoded(NamedTuple):
    """A decoded picture.

    Attributes:
        pixels: uint8 [height, width, 3].
        scaling: how more than 8 bits became 8, such as "divided by 16"; None for pictures of 8 bits.
    """

    pixels: np.ndarray
    scaling: str | None


@contextmanager
def open_picture(encoded: bytes) -> Iterator[ImageFile.ImageFile]:
    """Opens an encoded picture. Failures inside the block become a ValueError too, because Pillow decodes lazily.

    Raises:
        ValueError: the bytes are not a picture, or the picture is damaged; TooLargeError if it is too large.
    """
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(encoded)) as picture:
            check_size(*picture.size)
            yield picture
    except UnidentifiedImageError:
        raise ValueError("its format is not known" if encoded else "it is empty") from None
    except (MemoryError, TooLargeError):
        raise
    except Exception as error:
        raise ValueError(one_line(error, 120)) from None


def has_frames(picture: Image.Image) -> bool:
    """Whether an opened picture has several frames or pages. Those of a JPEG or PNG are an addition to the picture."""
    with contextlib.suppress(Exception):  # Pillow looks through the whole file, which may be damaged behind the first
        return picture.format not in (*JPEG_FORMATS, "PNG") and getattr(picture, "n_frames", 1) > 1
    return False


def decode_picture(encoded: bytes, *, upright: bool = False) -> np.ndarray:
    """Decodes a picture to RGB, uint8 [height, width, 3]; see `decode`."""
    return decode(encoded, upright=upright).pixels


def decode(encoded: bytes, *, upright: bool = False) -> Decoded:
    """Decodes a picture to RGB. Greyscale is repeated, alpha is dropped; `depth` scales more than 8 bits to 8.

    Args:
        encoded: a file of any format that Pillow reads.
        upright: turn the picture as its EXIF orientation says; otherwise the pixels are returned as stored.

    Raises:
        ValueError: the bytes are not a picture, or the picture is damaged or too large.
    """
    with open_picture(encoded) as picture:
        scaling = None
        if is_deep(picture):
            scaled, scaling = to_eight_bits(_deep_colours(picture, encoded))
            rgb = Image.fromarray(np.broadcast_to(scaled, (*scaled.shape[:2], 3)))
        else:
            rgb = picture.convert("RGB")
        return Decoded(np.asarray(turn(rgb, orientation_of(picture)) if upright else rgb), scaling)


def decode_annotated(encoded: bytes, shape: tuple[int, int], exif: Exif | None = None) -> np.ndarray:
    """Decodes a picture to the pixels that its annotations belong to.

    Args:
        encoded: a file of any format that Pillow reads.
        shape: (height, width) of the annotations.
        exif: see `orientation.is_turned`.

    Returns:
        uint8 [height, width, 3].

    Raises:
        ValueError: as `decode` does; or the picture has another size.
    """
    with open_picture(encoded) as picture:
        picture.load()  # a PNG may have its orientation after its pixels
        turned = is_turned(orientation_of(picture), picture.size, shape[::-1], exif)
    if turned is None:
        raise ValueError("picture and mask differ in size")
    return decode_picture(encoded, upright=turned)


def decode_samples(encoded: bytes) -> np.ndarray:
    """Decodes a picture without changing its samples; a palette becomes its colours.

    Returns:
        [height, width] or [height, width, channels] in the dtype of the file.

    Raises:
        ValueError: the bytes are not a picture, or the picture is damaged or too large.
    """
    with open_picture(encoded) as picture:
        return np.asarray(picture.convert("RGB") if picture.mode == "P" else picture)


def _deep_colours(picture: ImageFile.ImageFile, encoded: bytes) -> np.ndarray:
    """Returns all bits of a deep picture's colours, without alpha: [height, width, 1 or 3]."""
    if picture.mode not in ("RGB", "RGBA"):
        return np.asarray(picture)[..., None]
    with open_picture(encoded) as again:
        is_grey = exchange_bytes(again)
        lower = np.asarray(again).astype(np.uint16)
    if is_grey:
        return lower[..., :1] << 8 | lower[..., 1:2]
    return (np.asarray(picture).astype(np.uint16) << 8 | lower)[..., :3]
