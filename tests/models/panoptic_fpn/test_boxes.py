"""Boxes and anchors."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from panoptic_cli.config.panoptic_fpn import Anchor
from panoptic_cli.models.panoptic_fpn import boxes as box_ops
from panoptic_cli.models.panoptic_fpn.anchors import anchor_boxes, anchors_per_place


def random_boxes(rng: np.random.Generator, count: int, size: float = 200.0) -> np.ndarray:
    low = rng.uniform(0, size * 0.7, (count, 2))
    high = low + rng.uniform(1, size * 0.3, (count, 2))
    return np.concatenate([low, high], axis=-1).astype(np.float32)


@pytest.mark.parametrize("weights", [None, box_ops.BOX_HEAD_WEIGHTS])
def test_decode_inverts_encode(weights: tuple[float, ...] | None) -> None:
    rng = np.random.default_rng(0)
    boxes, anchors = random_boxes(rng, 200), random_boxes(rng, 200)
    decoded = box_ops.decode(box_ops.encode(boxes, anchors, weights), anchors, weights)
    # A few float32 operations on positions up to 200, each with a relative rounding error of 6e-8.
    np.testing.assert_allclose(decoded, boxes, atol=2e-4)


def test_encoding_equals_values_computed_by_hand() -> None:
    anchor = np.array([[10.0, 20.0, 30.0, 60.0]], np.float32)  # centre (20, 40), size (20, 40)
    box = np.array([[15.0, 40.0, 35.0, 60.0]], np.float32)  # centre (25, 50), size (20, 20)
    expected = np.array([[0.25, 0.25, 0.0, np.log(0.5)]])
    np.testing.assert_allclose(box_ops.encode(box, anchor), expected, atol=1e-6)
    scaled = box_ops.encode(box, anchor, box_ops.BOX_HEAD_WEIGHTS)
    np.testing.assert_allclose(scaled, expected * [10, 10, 5, 5], atol=1e-5)


def test_extreme_offsets_decode_to_a_finite_box() -> None:
    anchors = np.array([[0.0, 0.0, 16.0, 16.0]], np.float32)
    decoded = box_ops.decode(tf.constant([[0.0, 0.0, 1e4, 1e4]]), anchors).numpy()
    np.testing.assert_allclose(decoded[0, 2:] - decoded[0, :2], 1000.0, rtol=1e-5)  # 16 * 1000 / 16


def test_boxes_are_clipped_to_the_size_of_their_picture() -> None:
    boxes = np.tile(np.array([[-5.0, 3.0, 50.0, 70.0]], np.float32), (2, 3, 1, 1))
    clipped = box_ops.clip(tf.constant(boxes), tf.constant([[40.0, 60.0], [64.0, 64.0]])).numpy()
    np.testing.assert_array_equal(clipped[0], np.broadcast_to([0, 3, 40, 60], (3, 1, 4)))
    np.testing.assert_array_equal(clipped[1], np.broadcast_to([0, 3, 50, 64], (3, 1, 4)))


def test_iou_equals_a_count_of_pixels() -> None:
    rng = np.random.default_rng(1)
    low = rng.integers(0, 12, (20, 2))
    boxes = np.concatenate([low, low + rng.integers(0, 9, (20, 2))], axis=-1)
    boxes[0] = boxes[1]  # the same box
    raster = np.zeros((20, 24, 24), bool)
    for mask, (y1, x1, y2, x2) in zip(raster, boxes, strict=True):
        mask[y1:y2, x1:x2] = True
    expected = np.zeros((20, 20))
    for i, j in np.ndindex(20, 20):
        union = (raster[i] | raster[j]).sum()
        expected[i, j] = (raster[i] & raster[j]).sum() / union if union else 0.0
    actual = box_ops.iou(boxes.astype(np.float32), boxes.astype(np.float32)).numpy()
    np.testing.assert_allclose(actual, expected, atol=1e-6)
    assert np.isfinite(actual).all()  # some of the boxes have no area


def test_anchors_follow_their_definition() -> None:
    config = Anchor(num_scales=2, aspect_ratios=(0.5, 1.0, 2.0), anchor_size=3.0)
    levels = anchor_boxes(config, (64, 96), 2, 4)
    assert anchors_per_place(config) == 6
    assert {level: boxes.shape for level, boxes in levels.items()} == {
        2: (16, 24, 6, 4),
        3: (8, 12, 6, 4),
        4: (4, 6, 6, 4),
    }
    for level, boxes in levels.items():
        stride = 2**level
        for row, column, place in np.ndindex(*boxes.shape[:3]):
            size = 3.0 * stride * 2 ** (place // 3 / 2)
            ratio = config.aspect_ratios[place % 3]
            y1, x1, y2, x2 = boxes[row, column, place].astype(np.float64)
            # The ratio is width / height and does not change the area; the centre is that of the cell.
            assert (x2 - x1) / (y2 - y1) == pytest.approx(ratio, rel=1e-5)
            assert (x2 - x1) * (y2 - y1) == pytest.approx(size**2, rel=1e-5)
            assert (y1 + y2) / 2 == pytest.approx((row + 0.5) * stride, abs=1e-4)
            assert (x1 + x2) / 2 == pytest.approx((column + 0.5) * stride, abs=1e-4)
