"""Runs of equal labels: the joint histogram of two label maps without sorting their pixels.

Panoptic maps are made of long runs. Two 640x480 maps have a few thousand joint runs for 307,200 pixels, so
what is not a plain comparison of neighbours only ever touches the runs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MAX_ID = 2**24 - 1  # a segment id has to fit the three bytes of an RGB pixel


@dataclass(frozen=True)
class JointRuns:
    """Maximal runs, in row-major order, over which two label maps are both constant.

    Attributes:
        gt_ids: integer [R], id in the first map.
        pred_ids: integer [R], id in the second map.
        lengths: int64 [R], pixels in the run.
    """

    gt_ids: np.ndarray
    pred_ids: np.ndarray
    lengths: np.ndarray


def joint_runs(gt_map: np.ndarray, pred_map: np.ndarray) -> JointRuns:
    """Finds the joint runs of two integer maps [H, W] of one shape."""
    gt, pred = gt_map.reshape(-1), pred_map.reshape(-1)
    starts = run_starts(gt, pred)
    return JointRuns(gt[starts], pred[starts], np.diff(starts, append=gt.size))


def joint_runs_rgb(gt_rgb: np.ndarray, pred_rgb: np.ndarray) -> JointRuns:
    """Finds the joint runs of two RGB-encoded maps, uint8 [H, W, 3], without decoding every pixel."""
    gt, pred = np.ascontiguousarray(gt_rgb).reshape(-1), np.ascontiguousarray(pred_rgb).reshape(-1)
    changed = (gt[3:] != gt[:-3]) | (pred[3:] != pred[:-3])
    # A pixel that differs from the one before it shows in one to three of its bytes.
    pixels = np.flatnonzero(changed) // 3 + 1
    first = np.ones(pixels.size, bool)
    np.not_equal(pixels[1:], pixels[:-1], out=first[1:])
    starts = np.concatenate(([0], pixels[first])) if gt.size else pixels
    return JointRuns(
        _rgb_to_ids(gt.reshape(-1, 3)[starts]),
        _rgb_to_ids(pred.reshape(-1, 3)[starts]),
        np.diff(starts, append=gt.size // 3),
    )


def run_starts(*maps: np.ndarray) -> np.ndarray:
    """Returns int64 [R]: where in flat maps of one size a run starts in any of them; empty for empty maps."""
    if not maps[0].size:
        return np.zeros(0, np.int64)
    changed = maps[0][1:] != maps[0][:-1]
    for other in maps[1:]:
        changed |= other[1:] != other[:-1]
    return np.concatenate(([0], np.flatnonzero(changed) + 1))


def _rgb_to_ids(pixels: np.ndarray) -> np.ndarray:
    """uint8 [R, 3] -> int64 [R], r + 256 g + 65536 b."""
    wide = pixels.astype(np.int64)
    return wide[:, 0] | wide[:, 1] << 8 | wide[:, 2] << 16
