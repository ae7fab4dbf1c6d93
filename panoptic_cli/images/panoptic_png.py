"""COCO's panoptic PNGs: segment ids stored as colours, id = red + 256 * green + 65536 * blue.

Conversion, inspection, scoring, prediction and the generated set all read and write them here.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import NamedTuple

import numpy as np
from kornia_rs.io import decode_image_png_u8
from PIL import Image

from panoptic_cli.errors import DataError
from panoptic_cli.images import png
from panoptic_cli.images.depth import is_deep
from panoptic_cli.images.limits import TooLargeError, check_size
from panoptic_cli.images.pillow import JPEG_FORMATS, open_picture

MAX_ID = 2**24 - 1  # a segment id has to fit the three bytes of a colour
_EIGHT_BIT_RGB = b"\x08\x02\x00\x00\x00"  # and not interlaced: the end of a PNG's first chunk


def ids_to_rgb(ids: np.ndarray) -> np.ndarray:
    """Encodes segment ids as colours.

    Args:
        ids: integer [H, W], each 0..MAX_ID.

    Returns:
        uint8 [H, W, 3].

    Raises:
        ValueError: an id does not fit three bytes.
    """
    if ids.size and (ids.min() < 0 or ids.max() > MAX_ID):
        raise ValueError(f"segment ids must be in 0..{MAX_ID}; these range from {ids.min()} to {ids.max()}")
    return np.ascontiguousarray(ids, "<u4").view(np.uint8).reshape(*ids.shape, 4)[..., :3]


def rgb_to_ids(rgb: np.ndarray) -> np.ndarray:
    """Decodes colours, uint8 [H, W, 3], to segment ids, uint32 [H, W]: the inverse of `ids_to_rgb`."""
    pixels = np.ascontiguousarray(rgb)
    ids = np.empty(pixels.shape[0] * pixels.shape[1], np.uint32)
    if ids.size:
        # Read four bytes at every third byte and mask the fourth: three times as fast as adding channels.
        np.bitwise_and(np.ndarray(len(ids) - 1, "<u4", pixels, strides=(3,)), MAX_ID, out=ids[:-1])
        ids[-1] = int.from_bytes(pixels[-1, -1].tobytes(), "little")  # no fourth byte after the last pixel
    return ids.reshape(pixels.shape[:2])


def encode_ids(ids: np.ndarray) -> bytes:
    """Encodes segment ids, integer [H, W] in 0..MAX_ID, as an 8-bit RGB PNG; raises as `ids_to_rgb` does."""
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(ids_to_rgb(ids))).save(stream, "PNG", compress_level=3)
    return stream.getvalue()


class Colours(NamedTuple):
    """The samples of a mask.

    Attributes:
        rgb: uint8 [H, W, 3], see `rgb_to_ids`; None for greyscale.
        values: uint32 [H, W], grey values or places in the palette; None for a picture in colour.
    """

    rgb: np.ndarray | None
    values: np.ndarray | None = None


def decode_colours(data: bytes) -> Colours:
    """Decodes a mask to its colours or values; an alpha channel is dropped.

    Raises:
        ValueError: it is not a picture, is cut short or damaged, a JPEG, or has other samples than ids;
            TooLargeError if it is too large.
    """
    pixels = _decode_plain(data)
    return _decode_any(data) if pixels is None else Colours(pixels)


def decode_rgb(data: bytes) -> np.ndarray:
    """Decodes a mask to uint8 [H, W, 3], see `rgb_to_ids`; grey values are ids. Raises as `decode_colours` does."""
    rgb, values = decode_colours(data)
    if rgb is None:
        assert values is not None, "every mask has colours or values"
        rgb = ids_to_rgb(values)
    return rgb


def read_rgb(path: str | Path) -> np.ndarray:
    """Reads a panoptic PNG's colours, uint8 [H, W, 3].

    Raises:
        DataError: the file is missing, broken or not RGB.
    """
    try:
        with open(path, "rb", buffering=0) as file:
            content = file.read()
    except FileNotFoundError:
        raise DataError(f"The panoptic PNG {path} does not exist.", "Check the PNG folder.") from None
    except OSError as error:
        raise DataError(f"The panoptic PNG {path} cannot be read: {error.strerror}.") from error
    try:
        return decode_rgb(content)
    except TooLargeError as error:
        raise DataError(f"The panoptic PNG {path} cannot be read: {error}.") from None
    except ValueError as error:
        raise DataError(f"The panoptic PNG {path} is broken: {error}.", "Write it again or fetch it again.") from None


def read_segment_ids(path: str | Path) -> np.ndarray:
    """Reads the segment ids of a panoptic PNG, uint32 [H, W], 0 for unlabelled; raises as `read_rgb` does."""
    return rgb_to_ids(read_rgb(path))


def _decode_plain(data: bytes) -> np.ndarray | None:
    """Decodes an 8-bit RGB PNG with kornia-rs, four times as fast as Pillow; None if it is left to Pillow."""
    if data[:8] != png.SIGNATURE or data[24:29] != _EIGHT_BIT_RGB:
        return None
    width, height = (int.from_bytes(data[place : place + 4], "big") for place in (16, 20))
    check_size(width, height)
    try:
        return np.asarray(decode_image_png_u8(data, (height, width), "rgb"))
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException:  # a panic of its Rust code is not an Exception
        return None


def _decode_any(data: bytes) -> Colours:
    """Decodes any picture that Pillow reads. Pillow accepts damaged pixels, so a PNG's checksums are checked first."""
    if data[:8] == png.SIGNATURE:
        png.check_chunks(data)
    with open_picture(data) as picture:
        if picture.format in JPEG_FORMATS:
            raise ValueError("it is a JPEG, whose compression damages segment ids; write masks as PNG")
        mode = picture.mode
        if mode in ("RGB", "RGBA") and is_deep(picture):
            raise ValueError("it has 16 bits a channel; it must be RGB with 8 bits a channel, or greyscale")
        if mode == "P":
            return Colours(np.asarray(picture.convert("RGB")), np.asarray(picture).astype(np.uint32))
        pixels = np.asarray(picture)
    if pixels.ndim == 3 and mode in ("RGB", "RGBA"):
        return Colours(np.ascontiguousarray(pixels[..., :3]))
    values = pixels[..., 0] if mode == "LA" else pixels
    if values.ndim != 2 or values.min(initial=0) < 0 or values.max(initial=0) > MAX_ID or (values % 1).any():
        raise ValueError(f"its mode is {mode}; it must be RGB with 8 bits a channel, or greyscale")
    return Colours(None, values.astype(np.uint32))
