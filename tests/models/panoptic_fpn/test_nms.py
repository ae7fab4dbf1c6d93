"""All forms of non-maximum suppression, compared with a greedy loop."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from panoptic_cli.models.panoptic_fpn.nms import Suppression, suppress_by_class, suppress_lists, suppress_sorted


def iou(a: np.ndarray, b: np.ndarray) -> float:
    height = min(a[2], b[2]) - max(a[0], b[0])
    width = min(a[3], b[3]) - max(a[1], b[1])
    if height <= 0 or width <= 0:
        return 0.0
    both = height * width
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def greedy(boxes: np.ndarray, scores: np.ndarray, threshold: float) -> list[int]:
    kept: list[int] = []
    for i in np.argsort(-scores, kind="stable"):
        if all(iou(boxes[i], boxes[j]) <= threshold for j in kept):
            kept.append(int(i))
    return kept


def crowded(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns boxes in clusters, so that most overlap others, with different scores."""
    rng = np.random.default_rng(seed)
    centre = rng.uniform(20, 80, (8, 2))[rng.integers(0, 8, count)] + rng.normal(0, 4, (count, 2))
    half = rng.uniform(4, 14, (count, 2))
    boxes = np.concatenate([centre - half, centre + half], axis=-1).astype(np.float32)
    scores = (rng.permutation(count) + 1).astype(np.float32) / (count + 1)
    return boxes, scores


# Numbers around the kernel's tile size (512 boxes): with more boxes, suppression must work across tiles.
@pytest.mark.parametrize("suppression", ["kernel", "padded", "matrix"])
@pytest.mark.parametrize(("count", "threshold"), [(60, 0.3), (60, 0.7), (700, 0.5), (1100, 0.7)])
def test_suppression_of_sorted_boxes_equals_the_greedy_loop(
    count: int, threshold: float, suppression: Suppression
) -> None:
    batches = [crowded(seed, count) for seed in (0, 1)]
    order = [np.argsort(-scores) for _, scores in batches]
    boxes = np.stack([b[o] for (b, _), o in zip(batches, order, strict=True)])
    scores = np.stack([s[o] for (_, s), o in zip(batches, order, strict=True)])
    most = 300
    kept_boxes, kept_scores = suppress_sorted(
        tf.constant(boxes), tf.constant(scores), most, threshold, 0.0, suppression
    )
    assert kept_boxes.shape == (2, most, 4)
    for i in range(2):
        expected = greedy(boxes[i], scores[i], threshold)[:most]
        n = len(expected)
        np.testing.assert_array_equal(kept_boxes[i, :n], boxes[i][expected])
        np.testing.assert_array_equal(kept_scores[i, :n], scores[i][expected])
        assert not np.any(kept_boxes[i, n:])
        assert not np.any(kept_scores[i, n:])


def test_compiled_suppression_of_sorted_boxes_keeps_the_same() -> None:
    boxes, scores = crowded(3, 100)
    order = np.argsort(-scores)
    boxes, scores = boxes[None, order], scores[None, order]
    scores = np.round(scores, 1)  # many equal ones
    plain = suppress_sorted(tf.constant(boxes), tf.constant(scores), 50, 0.5, 0.25)
    static = tf.function(lambda b, s: suppress_sorted(b, s, 50, 0.5, 0.25, "padded"), jit_compile=True, autograph=False)
    compiled = static(boxes, scores)
    expected = [i for i in greedy(boxes[0], scores[0], 0.5) if scores[0, i] > 0.25][:50]
    np.testing.assert_array_equal(plain[0][0, : len(expected)], boxes[0][expected])
    np.testing.assert_array_equal(plain[0], compiled[0])
    np.testing.assert_array_equal(plain[1], compiled[1])


@pytest.mark.parametrize("shared_boxes", [True, False])
def test_suppression_by_class_equals_the_greedy_loop(shared_boxes: bool) -> None:
    rng = np.random.default_rng(5)
    count, classes, per_class, most, threshold, least = 80, 4, 10, 25, 0.4, 0.2
    boxes = np.stack([crowded(10 + c, count)[0] for c in range(classes)], axis=1)
    boxes = boxes[:, :1] if shared_boxes else boxes
    scores = (rng.permutation(count * classes).reshape(count, classes) + 1.0).astype(np.float32)
    scores /= count * classes + 1
    found = []
    for c in range(classes):
        own = boxes[:, 0 if shared_boxes else c]
        chosen = [i for i in greedy(own, scores[:, c], threshold) if scores[i, c] > least][:per_class]
        found += [(scores[i, c], c, own[i]) for i in chosen]
    found.sort(key=lambda item: -item[0])
    found = found[:most]
    out_boxes, out_scores, out_classes, counts = suppress_by_class(
        tf.constant(boxes[None]), tf.constant(scores[None]), per_class, most, threshold, least
    )
    n = len(found)
    assert counts.numpy().tolist() == [n]
    np.testing.assert_array_equal(out_scores[0, :n], [item[0] for item in found])
    np.testing.assert_array_equal(out_classes[0, :n], [item[1] for item in found])
    np.testing.assert_array_equal(out_boxes[0, :n], [item[2] for item in found])


def test_boxes_without_area_and_low_scores_are_dropped() -> None:
    boxes = tf.constant([[[[0.0, 0.0, 0.0, 0.0]], [[0.0, 0.0, 9.0, 9.0]], [[20.0, 0.0, 29.0, 9.0]]]])
    scores = tf.constant([[[0.9], [0.5], [0.05]]])
    out_boxes, out_scores, _, counts = suppress_by_class(boxes, scores, 3, 3, 0.5, 0.05)
    assert counts.numpy().tolist() == [1]  # a score equal to the threshold is dropped, too
    np.testing.assert_array_equal(out_boxes[0, 0], [0, 0, 9, 9])
    np.testing.assert_array_equal(out_scores[0], [0.5, 0, 0])


def test_a_long_chain_is_followed_to_its_end() -> None:
    """Each box overlaps only its neighbours: every second one is kept, which takes the matrices a round a box."""
    count = 61
    start = np.arange(count, dtype=np.float32) * 5.0
    boxes = np.stack([np.zeros_like(start), start, np.full_like(start, 10.0), start + 10.0], axis=-1)[None]
    scores = np.linspace(1.0, 0.5, count, dtype=np.float32)[None]
    kept, _ = suppress_sorted(tf.constant(boxes), tf.constant(scores), count, 0.3, 0.0, "matrix")
    np.testing.assert_array_equal(kept[0, : count // 2 + 1], boxes[0, ::2])
    assert not np.any(kept[0, count // 2 + 1 :])


def test_lists_of_different_lengths_are_suppressed_together() -> None:
    lists = []
    for seed, count in ((0, 700), (1, 90), (2, 3)):
        boxes, scores = crowded(seed, count)
        order = np.argsort(-scores)
        scores = np.round(scores[order], 2)  # some equal ones, and 0
        lists.append((tf.constant(boxes[None, order]), tf.constant(scores[None])))
    arguments = ([b for b, _ in lists], [s for _, s in lists], 60, 0.5, 0.1)
    for kernel, matrix in zip(suppress_lists(*arguments, "kernel"), suppress_lists(*arguments, "matrix"), strict=True):
        np.testing.assert_array_equal(kernel[0], matrix[0])
        np.testing.assert_array_equal(kernel[1], matrix[1])
