"""Random boxes, and how much boxes overlap."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from panoptic_cli.models.panoptic_fpn import boxes


def overlaps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Returns the IoU of all pairs, float32 [n, m]; the function has a test of its own, against a raster."""
    return boxes.iou(tf.constant(a), tf.constant(b)).numpy()


def some_boxes(seed: int, count: int, size: float = 128.0) -> np.ndarray:
    """Returns float32 [count, 4], (y1, x1, y2, x2) in 0..size, none of them empty."""
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, size * 0.8, (count, 2))
    high = np.minimum(low + rng.uniform(2, size * 0.5, (count, 2)), size)
    return np.concatenate([low, high], axis=-1).astype(np.float32)
