"""The largest picture that is decoded: a limit by the machine's memory instead of Pillow's fixed one."""

from __future__ import annotations

import os

MAX_PIXELS_VARIABLE = "PANOPTIC_MAX_PIXELS"  # the environment reaches the worker processes
_BYTES = 64  # of memory for each pixel; converting takes 20, predicting and drawing 55
_FALLBACK = 1 << 29  # pixels, where the system does not tell its memory


class TooLargeError(ValueError):
    """A picture has more pixels than the limit."""


def max_pixels() -> int:
    """Returns the largest number of pixels of a picture: by option, or a pixel for every 64 bytes of memory."""
    given = os.environ.get(MAX_PIXELS_VARIABLE, "")
    if given.isdecimal() and int(given):
        return int(given)
    memory = machine_memory()
    return _FALLBACK if memory is None else memory // _BYTES


def machine_memory() -> int | None:
    """Returns the machine's memory in bytes, None if the system does not tell it."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None


def check_size(width: int, height: int) -> None:
    """Raises TooLargeError if a picture of this size has too many pixels."""
    if width * height > max_pixels():
        raise TooLargeError(
            f"it has {width:,} x {height:,} pixels, more than the limit of {max_pixels():,}; "
            "cut it into tiles or raise --max-pixels"
        )
