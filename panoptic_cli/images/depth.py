"""Pictures of more than 8 bits: how their samples become 8-bit ones.

Integers are divided by the power of two that brings the brightest sample below 256, in steps of two bits: 10-bit values
by 4, 12-bit values by 16, 16-bit values by 256. Floats of 0..1 are multiplied by 255; others are taken as integers.
`images.decoding` does the same to 16-bit PNGs in TensorFlow.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import ImageFile

DEEP_NOTE = (
    "pictures of more than 8 bits scaled by the picture's brightest value: 10-bit values are divided by 4, 12-bit by "
    "16, 14-bit by 64, 16-bit by 256; floats up to 1 are multiplied by 255"
)
_EXCHANGED = {"16B": "16L", "16L": "16B", "16N": "16B"}  # the order of a sample's bytes


def is_deep(picture: ImageFile.ImageFile) -> bool:
    """Whether an opened picture, not loaded yet, has more than 8 bits a sample."""
    return picture.mode.startswith("I") or picture.mode == "F" or any(map(_is_split, picture.tile))


def exchange_bytes(picture: ImageFile.ImageFile) -> bool:
    """Makes Pillow decode the lower byte of colours of 16 bits; without this it decodes the upper byte alone.

    Returns:
        True for grey with alpha, for which Pillow has no such form: its two samples are read as four colours of a byte.
    """
    exchanged, is_grey = [], False
    for tile in picture.tile:
        layout, _, word = _raw_mode(tile).partition(";")
        is_grey |= layout == "LA"
        raw = "RGBA" if is_grey else f"{layout};{_EXCHANGED[word]}"
        exchanged.append(tile._replace(args=(raw, *tile.args[1:]) if isinstance(tile.args, tuple) else raw))
    picture.tile = exchanged
    return is_grey


def to_eight_bits(samples: np.ndarray) -> tuple[np.ndarray, str]:
    """Scales samples to 8 bits by the rule above.

    Args:
        samples: integers or floats, any shape.

    Returns:
        uint8 in the same shape, and what was done, such as "divided by 16".

    Raises:
        ValueError: a sample is negative or not finite.
    """
    low, high = samples.min(initial=0), samples.max(initial=0)
    if not np.isfinite(low) or not np.isfinite(high) or low < 0:
        raise ValueError(f"its values go from {low:g} to {high:g}; scale them to 8 or 16 bits")
    if samples.dtype.kind == "f" and high <= 1:
        return np.rint(samples * 255).astype(np.uint8), "multiplied by 255"
    bits = max(8, int(high).bit_length() + 1 & ~1)
    scaled = (samples.astype(np.uint64) >> np.uint64(bits - 8)).astype(np.uint8)
    return scaled, f"divided by {1 << bits - 8}" if bits > 8 else "unchanged"


def _is_split(tile: Any) -> bool:
    layout, _, word = _raw_mode(tile).partition(";")
    return layout in ("LA", "RGB", "RGBA", "RGBX") and word in _EXCHANGED


def _raw_mode(tile: Any) -> str:
    """Returns Pillow's name of how the samples are laid out in the file."""
    return str(tile.args[0] if isinstance(tile.args, tuple) else tile.args)
