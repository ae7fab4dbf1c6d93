"""COCO's run lengths: alternating runs of 0 and 1, starting with 0, down the columns of a picture."""

from __future__ import annotations

from typing import Any

import numpy as np

_LONGEST_NUMBER = 12  # characters of 5 bits: 60 bits


def runs_of(rle: dict[str, Any], height: int, width: int) -> np.ndarray:
    """Returns the runs of a run-length object, compressed or not.

    Args:
        rle: {"size": [height, width], "counts": list, or compressed as str or bytes}.
        height: height of the picture.
        width: width of the picture.

    Returns:
        int64 [n], none negative, with the sum height * width.

    Raises:
        ValueError: the object is malformed or has another size.
    """
    counts, size = rle.get("counts"), rle.get("size")
    if not isinstance(size, list) or size != [height, width]:
        raise ValueError(f"the run-length mask has size {size} in a picture of {[height, width]}")
    if isinstance(counts, list):
        # Python's integers do not overflow, whatever the file holds.
        if not set(map(type, counts)) <= {int} or min(counts, default=-1) < 0 or sum(counts) != height * width:
            raise ValueError("the run lengths do not add up to the picture's size")
        return np.array(counts, np.int64)
    if not isinstance(counts, str | bytes):
        raise ValueError("the run-length mask has no counts")
    runs = _decompress(counts.encode() if isinstance(counts, str) else counts)
    if runs.min(initial=0) < 0 or runs.sum() != height * width:
        raise ValueError("the run lengths do not add up to the picture's size")
    return runs


def _decompress(counts: bytes) -> np.ndarray:
    """Decodes COCO's string: 5 bits a character, lowest first; from the fourth number on, differences to two before."""
    chunks = np.frombuffer(counts, np.uint8).astype(np.int64) - 48
    ends = np.flatnonzero((chunks & 32) == 0)  # the last character of each number
    if not len(chunks) or chunks.min() < 0 or chunks.max() > 63 or not len(ends) or ends[-1] != len(chunks) - 1:
        raise ValueError("the compressed run lengths are damaged")
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > _LONGEST_NUMBER:
        raise ValueError("the compressed run lengths are damaged")
    shifts = 5 * (np.arange(len(chunks)) - np.repeat(starts, lengths))
    runs = np.add.reduceat((chunks & 31) << shifts, starts)
    runs -= ((chunks[ends] & 16) != 0) * (np.int64(1) << 5 * lengths)  # negative numbers
    if np.abs(runs).max() > 1 << 40:  # no picture has such runs, and their sums could overflow
        raise ValueError("the compressed run lengths are damaged")
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return runs


def draw_runs(runs: np.ndarray, height: int) -> tuple[np.ndarray, int, int] | None:
    """Draws the runs inside the box of their ones, which is a tenth of the picture for a typical object.

    Args:
        runs: as runs_of returns them.
        height: height of the picture.

    Returns:
        uint8 [h, w] of 0 and 1, C-contiguous, and the box's top and left; None if there are no ones.
    """
    ends = np.cumsum(runs)[1::2]
    starts = ends - runs[1::2]
    ends, starts = ends[ends > starts], starts[ends > starts]
    if not len(ends):
        return None
    first, last = starts // height, (ends - 1) // height
    left, right = int(first[0]), int(last[-1])
    if (first != last).any():  # a run continues in the next column
        top, bottom = 0, height - 1
    else:
        top, bottom = int((starts - first * height).min()), int((ends - 1 - last * height).max())
    edges = np.empty(2 * len(ends) + 2, np.int64)  # edges of the runs inside the box's columns
    edges[0], edges[1:-1:2], edges[2:-1:2], edges[-1] = left * height, starts, ends, (right + 1) * height
    values = (np.arange(len(edges) - 1) & 1).astype(np.uint8)
    columns = np.repeat(values, np.diff(edges)).reshape(right - left + 1, height)
    return np.ascontiguousarray(columns[:, top : bottom + 1].T), top, left
