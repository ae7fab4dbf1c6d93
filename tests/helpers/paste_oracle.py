"""Pasting of box masks in NumPy: the reference for the pasting in TensorFlow."""

from __future__ import annotations

import numpy as np


def paste_runs(
    masks: np.ndarray, boxes: np.ndarray, height: int, width: int, threshold: float = 0.5
) -> list[np.ndarray]:
    """Pastes instance masks at the picture's own size.

    The value at a pixel is the bilinear sample of the mask at ((x + 0.5 - x1) / (x2 - x1)) * M - 0.5, likewise in y,
    with zeros around the mask. Only the pixels that a mask can reach are computed.

    Args:
        masks: float [N, M, M], probabilities inside each box; M is 28 in the published networks.
        boxes: float [N, 4], y1, x1, y2, x2 in pixels; they may extend beyond the picture.
        height: pixels.
        width: pixels.
        threshold: a pixel belongs to the instance if its value is greater.

    Returns:
        N arrays of COCO's run lengths. A box that has no area, or is not finite, gives an empty mask.
    """
    return [
        _runs(*_paste(mask, box, height, width, threshold), height, width)
        for mask, box in zip(np.asarray(masks), np.asarray(boxes, np.float64), strict=True)
    ]


def _paste(mask: np.ndarray, box: np.ndarray, height: int, width: int, threshold: float) -> tuple[np.ndarray, int, int]:
    """Returns bool [h, w], the part of the picture that the mask reaches, and its first row and column."""
    y1, x1, y2, x2 = box.tolist()
    if not np.isfinite(box).all() or y2 <= y1 or x2 <= x1:
        return np.zeros((0, 0), bool), 0, 0
    top, rows = _interpolation(y1, y2, mask.shape[0], height)
    left, columns = _interpolation(x1, x2, mask.shape[1], width)
    return rows @ mask.astype(np.float64) @ columns.T > threshold, top, left


def _interpolation(start: float, end: float, cells: int, size: int) -> tuple[int, np.ndarray]:
    """Returns bilinear weights along one axis: the first pixel within reach, and float64 [pixels, cells]."""
    reach = 0.5 * (end - start) / cells  # beyond the border cells' centres values fade to zero over one cell
    first = max(0, int(np.floor(start - reach)))
    last = min(size, int(np.ceil(end + reach)))
    if last <= first:
        return 0, np.zeros((0, cells))
    place = (np.arange(first, last) + 0.5 - start) / (end - start) * cells - 0.5
    return first, np.maximum(0.0, 1.0 - np.abs(place[:, None] - np.arange(cells)))


def _runs(part: np.ndarray, top: int, left: int, height: int, width: int) -> np.ndarray:
    """Returns the run lengths of a picture that is empty except for one part."""
    columns = part.shape[1]
    strip = np.zeros((columns, height), bool)
    strip[:, top : top + part.shape[0]] = part.T
    padded = np.concatenate(([False], strip.reshape(-1), [False]))
    turns = np.flatnonzero(padded[1:] != padded[:-1]) + left * height
    counts = np.diff(turns, prepend=0, append=height * width)
    return counts[:-1] if counts.size > 1 and counts[-1] == 0 else counts
