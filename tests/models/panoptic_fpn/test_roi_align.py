"""ROI align, compared with loops over pixels."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf

from panoptic_cli.models.panoptic_fpn.roi_align import roi_align, roi_levels

LEVELS = range(2, 6)


def oracle(features: dict[int, np.ndarray], boxes: np.ndarray, crop: int) -> np.ndarray:
    """Takes one bilinear sample at each cell's centre, in float64, one value at a time."""
    batch, count = boxes.shape[:2]
    out = np.zeros((batch, count, crop, crop, features[2].shape[-1]))
    for b, n in np.ndindex(batch, count):
        y1, x1, y2, x2 = boxes[b, n].astype(np.float64)
        area = (y2 - y1) * (x2 - x1)
        level = math.floor(4 + math.log2(math.sqrt(area) / 224)) if area > 0 else 2
        level = min(max(level, 2), 5)
        plane = features[level][b].astype(np.float64)
        height, width = plane.shape[:2]
        for i, j in np.ndindex(crop, crop):
            y = (y1 + (i + 0.5) / crop * (y2 - y1)) / 2**level
            x = (x1 + (j + 0.5) / crop * (x2 - x1)) / 2**level
            y, x = min(y, height - 1), min(x, width - 1)  # the last cell's value extends to the border
            top, left = min(int(y), height - 1), min(int(x), width - 1)
            for dy, dx in np.ndindex(2, 2):
                weight = (y - top if dy else 1 - (y - top)) * (x - left if dx else 1 - (x - left))
                out[b, n, i, j] += weight * plane[min(top + dy, height - 1), min(left + dx, width - 1)]
    return out


@pytest.fixture(scope="module")
def pyramid() -> dict[int, np.ndarray]:
    rng = np.random.default_rng(0)
    return {level: rng.standard_normal((2, 512 >> level, 384 >> level, 3)).astype(np.float32) for level in LEVELS}


def rois() -> np.ndarray:
    rng = np.random.default_rng(1)
    boxes = []
    for side in (4, 40, 100, 180, 300, 380):  # boxes for every level, with many aspect ratios
        low = rng.uniform(0, [512 - side, 384 - side], (8, 2))
        boxes.append(np.concatenate([low, low + side * rng.uniform(0.3, 1, (8, 2))], axis=-1))
    special = [
        [0, 0, 512, 384],  # everything
        [0, 0, 0, 0],  # padding
        [100, 384, 160, 384],  # no width, on the border
        [512, 10, 512, 20],
        [511, 383, 512, 384],  # the last pixel
        [30.25, 7.5, 30.25, 7.5],
    ]
    return np.concatenate([*boxes, special, special]).astype(np.float32).reshape(2, -1, 4)


@pytest.mark.parametrize("crop", [1, 7])
def test_crops_equal_those_of_the_loops(pyramid: dict[int, np.ndarray], crop: int) -> None:
    boxes = rois()
    actual = roi_align({k: tf.constant(v) for k, v in pyramid.items()}, tf.constant(boxes), crop)
    # In float32, positions up to 128 cells are exact to 1e-5; features change by about 1 between cells.
    np.testing.assert_allclose(actual, oracle(pyramid, boxes, crop), atol=1e-4)


def test_a_linear_ramp_is_sampled_exactly() -> None:
    y, x = np.meshgrid(np.arange(32.0), np.arange(32.0), indexing="ij")
    ramp = np.stack([y, x], axis=-1)[None].astype(np.float32)
    box = tf.constant([[[16.0, 32.0, 72.0, 60.0]]])
    crop = roi_align({2: tf.constant(ramp)}, box, 7).numpy()[0, 0]
    np.testing.assert_allclose(crop[:, 0, 0], (16 + (np.arange(7) + 0.5) * 8) / 4, atol=1e-5)
    np.testing.assert_allclose(crop[0, :, 1], (32 + (np.arange(7) + 0.5) * 4) / 4, atol=1e-5)


def test_levels_change_at_the_right_sizes() -> None:
    sides = np.array([1, 111.9, 112.1, 223.9, 224.1, 447.9, 448.1, 5000], np.float32)
    boxes = np.stack([np.zeros(8), np.zeros(8), sides, sides], axis=-1).astype(np.float32)
    assert roi_levels(boxes, 2, 6).numpy().tolist() == [2, 2, 3, 3, 4, 4, 5, 6]
    assert roi_levels(boxes, 3, 4).numpy().tolist() == [3, 3, 3, 3, 4, 4, 4, 4]
    assert roi_levels(tf.zeros([2, 4]), 2, 6).numpy().tolist() == [2, 2]


def test_the_gradient_reaches_only_the_sampled_cells(pyramid: dict[int, np.ndarray]) -> None:
    features = {k: tf.constant(v) for k, v in pyramid.items()}
    box = tf.constant([[[8.0, 8.0, 36.0, 36.0]]] * 2)  # on level 2, cells 2..9
    with tf.GradientTape() as tape:
        tape.watch(features)
        total = tf.reduce_sum(roi_align(features, box, 7)[0])
    gradient = tape.gradient(total, features)
    dense = {k: tf.convert_to_tensor(v).numpy() for k, v in gradient.items()}
    assert dense[2][0].sum() == pytest.approx(7 * 7 * 3, rel=1e-5)  # bilinear weights add up to one per sample
    touched = np.argwhere(np.abs(dense[2][0]).sum(-1) > 0)
    assert touched.min() >= 2
    assert touched.max() <= 9
    assert not dense[2][1].any()
    assert not any(dense[level].any() for level in (3, 4, 5))
