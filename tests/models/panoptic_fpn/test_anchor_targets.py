"""Matching of anchors to ground truth, compared with loops over all pairs."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from random_boxes import overlaps, some_boxes

from panoptic_cli.config.panoptic_fpn import Anchor
from panoptic_cli.config.schema import Parser
from panoptic_cli.models.panoptic_fpn import boxes as box_ops
from panoptic_cli.models.panoptic_fpn.anchor_targets import anchor_targets, match_anchors, subsample_labels
from panoptic_cli.models.panoptic_fpn.anchors import anchor_boxes


def match_oracle(anchors: np.ndarray, gt: np.ndarray, high: float, low: float) -> tuple[list[int], list[int]]:
    iou = overlaps(anchors, gt)
    labels, matched = [], []
    forced = {}
    for box in reversed(range(len(gt))):  # the first box wins an anchor that several force
        forced[int(np.argmax(iou[:, box]))] = box
    for i, row in enumerate(iou):
        if i in forced:
            labels.append(1)
            matched.append(forced[i])
        elif row.max() >= high:
            labels.append(1)
            matched.append(int(np.argmax(row)))
        else:
            labels.append(0 if row.max() < low else -1)
            matched.append(0)
    return labels, matched


@pytest.mark.parametrize("seed", range(4))
def test_matching_equals_the_loop(seed: int) -> None:
    by_level = anchor_boxes(Anchor(anchor_size=4), (128, 128), 2, 4)
    anchors = np.concatenate([boxes.reshape(-1, 4) for boxes in by_level.values()])
    gt = some_boxes(seed, 7)
    gt[0] = [3, 3, 5, 4]  # overlaps no anchor well, so that its best anchor is forced
    gt[1] = gt[2]  # two boxes force the same anchor
    labels, matched = match_anchors(by_level, tf.constant(gt), 0.6, 0.3)
    expected_labels, expected_matched = match_oracle(anchors, gt, 0.6, 0.3)
    np.testing.assert_array_equal(labels, expected_labels)
    np.testing.assert_array_equal(matched, expected_matched)
    best_of_tiny = np.argmax(overlaps(anchors, gt)[:, 0])
    assert overlaps(anchors, gt)[best_of_tiny, 0] < 0.6
    assert labels[best_of_tiny] == 1
    assert {-1, 0, 1} == set(labels.numpy().tolist())


@pytest.mark.parametrize("seed", range(3))
def test_matching_equals_the_loop_for_boxes_of_all_sizes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 128, (40, 2))
    gt = np.concatenate([low, np.minimum(low + np.exp(rng.uniform(-7, 5, (40, 2))), 128)], axis=-1)
    gt[:20] = np.round(gt[:20])  # many anchors overlap such a box equally
    gt = gt[(gt[:, 2:] > gt[:, :2]).all(axis=-1)].astype(np.float32)
    gt[:3] = [[0, 0, 128, 128], [32, 32, 96, 96], [32, 32, 96, 96]]
    # Levels of different shapes, several scales, and gaps between the smallest anchors.
    by_level = anchor_boxes(Anchor(anchor_size=0.5, num_scales=2), (128, 64), 2, 6)
    anchors = np.concatenate([boxes.reshape(-1, 4) for boxes in by_level.values()])
    gt = np.concatenate([gt, [[3.5, 3.5, 4.5, 4.5], [120, 100, 125, 110]]]).astype(np.float32)
    assert not overlaps(anchors, gt)[:, -1].any()  # it overlaps no anchor
    for high, low_threshold in ((0.7, 0.3), (0.5, 0.5), (0.2, 0.0)):
        labels, matched = match_anchors(by_level, tf.constant(gt), high, low_threshold)
        expected_labels, expected_matched = match_oracle(anchors, gt, high, low_threshold)
        np.testing.assert_array_equal(labels, expected_labels)
        np.testing.assert_array_equal(matched, expected_matched)


def test_without_ground_truth_all_anchors_are_negative() -> None:
    labels, matched = match_anchors(anchor_boxes(Anchor(), (64, 64), 3, 4), tf.zeros([0, 4]), 0.7, 0.3)
    assert not np.any(labels)
    assert not np.any(matched)
    anchors = anchor_boxes(Anchor(), (64, 64), 3, 4)
    scores, boxes = anchor_targets(anchors, tf.zeros([0, 4]), Parser(), tf.constant([1, 2]))
    assert sum(int(tf.reduce_sum(tf.cast(x == 0, tf.int32))) for x in scores.values()) == 240  # 192 + 48, all
    assert not any(np.any(x) for x in boxes.values())


def test_anchor_targets_decode_to_the_ground_truth() -> None:
    anchors, gt = anchor_boxes(Anchor(anchor_size=4), (128, 128), 2, 5), some_boxes(3, 5)
    every = Parser(rpn_batch_size_per_im=1_000_000, rpn_fg_fraction=1.0)  # the sample includes all anchors
    scores, boxes = anchor_targets(anchors, tf.constant(gt), every, tf.constant([1, 2]))
    found = set()
    for level, level_anchors in anchors.items():
        positive = scores[level].numpy() == 1
        targets = boxes[level].numpy().reshape(*positive.shape, 4)
        assert not targets[~positive].any()
        decoded = box_ops.decode(targets[positive], level_anchors[positive]).numpy()
        for box in decoded:
            distance = np.abs(gt - box).max(axis=-1)
            assert distance.min() < 1e-3
            found.add(int(distance.argmin()))
    assert found == set(range(5))  # every box has an anchor


@pytest.mark.parametrize(
    ("positives", "negatives", "expected"),
    [(200, 1000, (128, 128)), (10, 1000, (10, 246)), (200, 50, (128, 50)), (0, 20, (0, 20))],
)
def test_subsampling_keeps_the_right_numbers(positives: int, negatives: int, expected: tuple) -> None:
    rng = np.random.default_rng(0)
    labels = rng.permutation([1] * positives + [0] * negatives + [-1] * 30).astype(np.int32)
    kept = subsample_labels(tf.constant(labels), 256, 0.5, tf.constant([3, 4])).numpy()
    assert ((kept == 1).sum(), (kept == 0).sum()) == expected
    np.testing.assert_array_equal(kept[kept >= 0], labels[kept >= 0])  # no label is changed
    again = subsample_labels(tf.constant(labels), 256, 0.5, tf.constant([3, 4])).numpy()
    np.testing.assert_array_equal(kept, again)
    if sum(expected) == 256:
        other = subsample_labels(tf.constant(labels), 256, 0.5, tf.constant([3, 5])).numpy()
        assert (other != kept).any()
