"""Non-maximum suppression (NMS), with TensorFlow's CPU kernels or with static shapes for XLA and other formats."""

from __future__ import annotations

from typing import Literal, TypeAlias

import tensorflow as tf

# kernel: TensorFlow's combined kernel for all classes at once, which exists only for CPUs.
# lists: the same kernel on one list of boxes per class; ONNX has an operation for it.
# padded: elementary operations with static shapes, which XLA, TPUs and TensorFlow Lite support; slow on a CPU.
Suppression: TypeAlias = Literal["kernel", "lists", "padded"]


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
    # The reference treats a box without a positive coordinate (one that is clipped away entirely) as padding.
    valid = (scores > score_threshold) & tf.reduce_any(boxes > 0.0, axis=-1)
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
