"""Non-maximum suppression (NMS): TensorFlow's CPU kernel, and forms for GPUs, for XLA and for other formats."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import tensorflow as tf

from panoptic_cli.models.panoptic_fpn import boxes as box_ops

# kernel: TensorFlow's combined kernel for all classes at once, which exists only for CPUs.
# lists: the same kernel on one list of boxes per class; ONNX has an operation for it.
# padded: elementary operations with static shapes, which XLA, TPUs and TensorFlow Lite support; slow on a CPU.
# matrix: products with the matrix of overlaps. It runs on a GPU, which the host asks once in some rounds for the end.
Suppression: TypeAlias = Literal["kernel", "lists", "padded", "matrix"]

_ROUNDS = 8  # between two questions


def suppress_sorted(
    boxes: tf.Tensor,
    scores: tf.Tensor,
    max_output_size: int,
    iou_threshold: float,
    score_threshold: float = 0.0,
    suppression: Suppression = "kernel",
) -> tuple[tf.Tensor, tf.Tensor]:
    """Applies NMS within one class. Of boxes with equal scores, the earlier one is the better.

    Args:
        boxes: float32 [batch, n, 4], sorted by descending score.
        scores: float32 [batch, n].
        max_output_size: the maximum number of boxes to keep.
        iou_threshold: boxes that overlap a better box by more than this (0..1) are dropped.
        score_threshold: boxes at or below it are not considered; at least 0.
        suppression: which form to use; all forms keep the same boxes.

    Returns:
        Boxes [batch, max_output_size, 4] and scores [batch, max_output_size], zeros after the last one kept.
    """
    if suppression == "matrix":
        ((boxes, scores),) = suppress_lists(
            [boxes], [scores], max_output_size, iou_threshold, score_threshold, suppression
        )
        padding = [[0, 0], [0, max_output_size - int(scores.shape[1])]]
        return tf.pad(boxes, [*padding, [0, 0]]), tf.pad(scores, padding)
    valid = considered(boxes, scores, score_threshold)
    if suppression == "padded":
        indices, count = tf.image.non_max_suppression_padded(
            tf.where(valid[..., None], boxes, 0.0),
            tf.where(valid, scores, -1.0),
            max_output_size=max_output_size,
            iou_threshold=iou_threshold,
            score_threshold=float("-inf"),
            pad_to_max_output_size=True,
            sorted_input=True,
            canonicalized_coordinates=True,
        )
        kept = tf.range(max_output_size)[None, :] < count[:, None]
    else:
        # The kernel may order equal scores in any way. It gets ranks instead, which identify the boxes that it keeps.
        size = tf.shape(scores)[1]
        ranks = tf.where(valid, tf.cast(tf.range(size, 0, -1), tf.float32), 0.0)
        with tf.device("CPU:0"):
            result = tf.image.combined_non_max_suppression(
                boxes[:, :, None, :],
                ranks[:, :, None],
                max_output_size_per_class=max_output_size,
                max_total_size=max_output_size,
                iou_threshold=iou_threshold,
                score_threshold=0.0,
                clip_boxes=False,
            )
        kept = result.nmsed_scores > 0.0
        indices = tf.minimum(size - tf.cast(result.nmsed_scores, tf.int32), size - 1)
    boxes = tf.where(kept[..., None], tf.gather(boxes, indices, batch_dims=1), 0.0)
    scores = tf.where(kept, tf.gather(scores, indices, batch_dims=1), 0.0)
    return boxes, scores


def suppress_lists(
    boxes: Sequence[tf.Tensor],
    scores: Sequence[tf.Tensor],
    max_output_size: int,
    iou_threshold: float,
    score_threshold: float,
    suppression: Suppression,
) -> list[tuple[tf.Tensor, tf.Tensor]]:
    """Applies NMS within each of several lists, for example the levels of a pyramid; see `suppress_sorted`.

    Returns:
        Boxes [batch, k, 4] and scores [batch, k] for each list, where k is the smaller of `max_output_size` and the
        list's length.
    """
    counts = [min(int(part.shape[1]), max_output_size) for part in boxes]
    lists = list(zip(boxes, scores, counts, strict=True))
    if suppression != "matrix":
        return [suppress_sorted(b, s, count, iou_threshold, score_threshold, suppression) for b, s, count in lists]
    overlaps = [box_ops.iou(part, part) > iou_threshold for part in boxes]
    kept = keep_all(overlaps, [considered(b, s, score_threshold) for b, s, _ in lists])
    return [first_kept(b, s, k, count) for (b, s, count), k in zip(lists, kept, strict=True)]


def considered(boxes: tf.Tensor, scores: tf.Tensor, score_threshold: float) -> tf.Tensor:
    """Returns which boxes take part, bool: scores [...] above the threshold, and boxes [..., 4] that are no padding.

    The reference treats a box without a positive coordinate (one that is clipped away entirely) as padding.
    """
    return (scores > score_threshold) & tf.reduce_any(boxes > 0.0, axis=-1)


def keep_all(overlaps: Sequence[tf.Tensor], valid: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """Decides for several lists of boxes at once which boxes greedy suppression keeps, with products of matrices.

    A box is kept if no earlier box that is kept overlaps it. Starting from all boxes, each round applies this rule to
    the result of the one before. A round settles at least the first box that is still unsettled, and what a round does
    not change is the greedy loop's result. Proposals of a network trained on shapes needed 3.6 rounds on average and 10
    at most (120 lists), a thousand or two of random boxes 3 to 6.

    Args:
        overlaps: bool [batch, n, n] for each list, sorted by descending score: whether two boxes exclude each other.
        valid: bool [batch, n] for each list, the boxes that take part.

    Returns:
        bool [batch, n] for each list.
    """
    matrices = []
    for overlap in overlaps:
        place = tf.range(int(overlap.shape[-1]), dtype=tf.float32)
        # float16 is exact here: only whether a sum of ones is 0 matters, and tensor cores add them.
        matrices.append(tf.cast(overlap & (place[:, None] < place[None, :]), tf.float16))

    def once(kept: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        votes = [
            tf.matmul(tf.cast(k, tf.float16)[:, None, :], matrix)[:, 0, :]
            for k, matrix in zip(kept, matrices, strict=True)
        ]
        return [v & (vote <= 0.0) for v, vote in zip(valid, votes, strict=True)]

    def rounds(changing: tf.Tensor, *kept: tf.Tensor) -> tuple[tf.Tensor, ...]:
        before: list[tf.Tensor] = list(kept)
        for _ in range(_ROUNDS):
            before, last = once(before), before
        moved = [tf.reduce_any(a != b) for a, b in zip(before, last, strict=True)]
        return (tf.reduce_any(tf.stack(moved)), *before)

    _, *kept = tf.while_loop(lambda changing, *_: changing, rounds, (tf.constant(True), *valid))
    return kept


def first_kept(boxes: tf.Tensor, scores: tf.Tensor, kept: tf.Tensor, count: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the first `count` boxes [batch, count, 4] and scores [batch, count] that are kept, zeros after them."""
    size = int(kept.shape[-1])
    keys = tf.where(kept, tf.range(size, 0, -1, dtype=tf.float32), 0.0)
    keys, places = tf.math.top_k(keys, min(count, size), sorted=True)
    found = keys > 0.0
    boxes = tf.where(found[..., None], tf.gather(boxes, places, batch_dims=1), 0.0)
    return boxes, tf.where(found, tf.gather(scores, places, batch_dims=1), 0.0)


def suppress_by_class(
    boxes: tf.Tensor,
    scores: tf.Tensor,
    max_output_size_per_class: int,
    max_output_size: int,
    iou_threshold: float,
    score_threshold: float,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
    """Applies NMS within each class, with TensorFlow's combined kernel (a CPU kernel, for inference only).

    Args:
        boxes: float32 [batch, n, classes or 1, 4].
        scores: float32 [batch, n, classes].
        max_output_size_per_class: the maximum number of boxes to keep per class.
        max_output_size: the maximum number of boxes to keep of all classes.
        iou_threshold: boxes that overlap a better box of their class by more than this (0..1) are dropped.
        score_threshold: boxes at or below it are not considered; at least 0.

    Returns:
        Boxes [batch, max_output_size, 4], scores, int32 classes [batch, max_output_size] (0 is the first class
        given) by descending score, zeros after the last; int32 counts [batch].
    """
    # The reference treats a box without a positive coordinate (one that is clipped away entirely) as padding.
    scores = tf.where(tf.reduce_any(boxes > 0.0, axis=-1), scores, 0.0)
    # Soft placement keeps the rest of the network on the accelerator; the kernel exists only for CPUs.
    with tf.device("CPU:0"):
        result = tf.image.combined_non_max_suppression(
            boxes,
            scores,
            max_output_size_per_class=max_output_size_per_class,
            max_total_size=max_output_size,
            iou_threshold=iou_threshold,
            score_threshold=score_threshold,
            pad_per_class=False,
            clip_boxes=False,
        )
    return (
        result.nmsed_boxes,
        result.nmsed_scores,
        tf.cast(result.nmsed_classes, tf.int32),
        result.valid_detections,
    )
