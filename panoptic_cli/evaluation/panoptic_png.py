"""COCO's panoptic PNGs: segment ids stored as colours, id = r + 256 g + 65536 b."""

from __future__ import annotations

import contextlib
import functools
import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from panoptic_cli.errors import DataError
from panoptic_cli.evaluation.label_runs import MAX_ID


@functools.cache
def _fast_decoder() -> Any:
    """The PNG decoder of kornia-rs, four times as fast as Pillow's on panoptic PNGs; None without it."""
    try:
        from kornia_rs.io import decode_image_png_u8
    except ImportError:
        return None
    return decode_image_png_u8


def encode_ids_to_rgb(ids: np.ndarray) -> np.ndarray:
    """Encodes segment ids as colours.

    Args:
        ids: integer [H, W], each 0 .. 2**24 - 1.

    Returns:
        uint8 [H, W, 3], id = r + 256 g + 65536 b.

    Raises:
        ValueError: an id does not fit three bytes.
    """
    if ids.size and (ids.min() < 0 or ids.max() > MAX_ID):
        raise ValueError(f"segment ids must be in 0..{MAX_ID}, these go from {ids.min()} to {ids.max()}")
    return np.ascontiguousarray(ids, "<u4").view(np.uint8).reshape(*ids.shape, 4)[..., :3]


def decode_rgb_to_ids(rgb: np.ndarray) -> np.ndarray:
    """Decodes colours, uint8 [H, W, 3], to segment ids, uint32 [H, W]; the inverse of `encode_ids_to_rgb`."""
    padded = np.zeros((*rgb.shape[:-1], 4), np.uint8)
    for channel in range(3):
        padded[..., channel] = rgb[..., channel]
    return padded.view("<u4")[..., 0].astype(np.uint32, copy=False)


def read_panoptic_png(path: str | Path) -> np.ndarray:
    """Reads a panoptic PNG.

    Args:
        path: an 8-bit RGB PNG; a fourth channel (alpha) is left out.

    Returns:
        uint8 [H, W, 3], see `decode_rgb_to_ids`.

    Raises:
        DataError: the file is missing, broken or not RGB.
    """
    try:
        with open(path, "rb", buffering=0) as file:
            content = file.read()
    except FileNotFoundError:
        raise DataError(f"The panoptic PNG {path} does not exist.", "Check the folder of the PNGs.") from None
    except OSError as error:
        raise DataError(f"The panoptic PNG {path} cannot be read: {error.strerror}.") from error
    # Header of an 8-bit RGB picture that is not interlaced; whatever else there is, Pillow reads or refuses.
    plain = content[:8] == b"\x89PNG\r\n\x1a\n" and content[24:29] == b"\x08\x02\x00\x00\x00"
    width, height = (int.from_bytes(content[place : place + 4], "big") for place in (16, 20))
    decode = _fast_decoder()
    if decode is not None and plain and 0 < width * height <= (Image.MAX_IMAGE_PIXELS or 0):
        # It raises bare exceptions; Pillow then decides and words the message.
        with contextlib.suppress(Exception):
            return np.asarray(decode(content, (height, width), "rgb"))
    try:
        with Image.open(io.BytesIO(content)) as picture:
            if picture.mode not in ("RGB", "RGBA"):
                raise DataError(
                    f"The panoptic PNG {path} is of mode {picture.mode}, not RGB.",
                    "Segment ids are stored as colours: id = r + 256 g + 65536 b.",
                )
            return np.asarray(picture)[..., :3]
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"The panoptic PNG {path} is broken: {error}.", "Write or fetch it again.") from None
