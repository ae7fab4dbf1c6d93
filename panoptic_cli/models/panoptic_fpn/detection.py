"""Detections from the box head's outputs (Faster R-CNN, arXiv 1506.01497, section 3.3)."""

from __future__ import annotations

import tensorflow as tf

from panoptic_cli.config.panoptic_fpn import DetectionGenerator
from panoptic_cli.models.panoptic_fpn import boxes as box_ops
from panoptic_cli.models.panoptic_fpn.nms import Suppression, suppress_by_class, suppress_sorted


def detect(
    logits: tf.Tensor,
    offsets: tf.Tensor,
    proposals: tf.Tensor,
    image_shape: tf.Tensor,
    config: DetectionGenerator,
    suppression: Suppression = "kernel",
) -> dict[str, tf.Tensor]:
    """Decodes every proposal for every class, applies NMS within each class and keeps the best detections.

    Args:
        logits: float32 [batch, n, classes]; class 0 is background.
        offsets: float32 [batch, n, classes, 4], relative to the proposals.
        proposals: float32 [batch, n, 4] in pixels of the input.
        image_shape: float32 [batch, 2], (height, width) that boxes are clipped to.
        config: numbers and thresholds.
        suppression: which form to use; all keep the same boxes, up to the order of equal scores.

    Returns:
        detection_boxes float32 [batch, k, 4], detection_scores [batch, k] descending, detection_classes
        int32 [batch, k] (0 after the last), num_detections int32 [batch].
    """
    # The batch may be dynamic, but the number of proposals is not; the heads' reshape has lost it.
    logits = tf.ensure_shape(logits, [None, proposals.shape[1], logits.shape[2]])
    boxes = box_ops.decode(offsets[:, :, 1:], proposals[:, :, None, :], box_ops.BOX_HEAD_WEIGHTS)
    boxes = box_ops.clip(boxes, image_shape)
    scores = tf.nn.softmax(logits)[..., 1:]
    if suppression == "kernel":
        scores = _best_of_classes(scores, config.pre_nms_top_k)
        limit = config.max_num_detections
        thresholds = config.nms_iou_threshold, config.pre_nms_score_threshold
        boxes, scores, classes, count = suppress_by_class(boxes, scores, limit, limit, *thresholds)
        found = tf.range(limit)[None, :] < count[:, None]
        classes = tf.where(found, classes + 1, 0)
    else:
        boxes, scores, classes = _class_by_class(boxes, scores, config, suppression)
        count = tf.reduce_sum(tf.cast(classes > 0, tf.int32), axis=1)
    return {
        "detection_boxes": boxes,
        "detection_scores": scores,
        "detection_classes": classes,
        "num_detections": count,
    }


def _best_of_classes(scores: tf.Tensor, top_k: int) -> tf.Tensor:
    """Sets scores [batch, n, classes] below the `top_k` best of their class to 0; ties with the last are kept."""
    if scores.shape[1] <= top_k:
        return scores
    least = tf.math.top_k(tf.transpose(scores, [0, 2, 1]), top_k).values[..., -1]
    return tf.where(scores >= least[:, None, :], scores, 0.0)


def _class_by_class(
    boxes: tf.Tensor, scores: tf.Tensor, config: DetectionGenerator, suppression: Suppression
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Applies NMS to each class separately, then keeps the best of all classes; all shapes are static.

    Args:
        boxes: float32 [batch, n, classes, 4], without the background.
        scores: float32 [batch, n, classes].
        config: numbers and thresholds.
        suppression: "lists" or "padded".

    Returns:
        Boxes float32 [batch, k, 4], scores [batch, k] descending and classes int32 [batch, k], 1 for the first class
        given; 0 after the last.
    """
    limit, num_classes = config.max_num_detections, int(scores.shape[2])
    considered = min(int(scores.shape[1]), config.pre_nms_top_k)
    by_class = tf.reshape(tf.transpose(scores, [0, 2, 1]), [-1, int(scores.shape[1])])  # [batch * classes, n]
    candidates = tf.reshape(tf.transpose(boxes, [0, 2, 1, 3]), [-1, int(boxes.shape[1]), 4])
    by_class, places = tf.math.top_k(by_class, considered, sorted=True)
    candidates = tf.gather(candidates, places, batch_dims=1)
    each = min(limit, considered)
    kept_boxes, kept_scores = suppress_sorted(
        candidates, by_class, each, config.nms_iou_threshold, config.pre_nms_score_threshold, suppression
    )
    flat = tf.reshape(kept_scores, [-1, num_classes * each])
    count = min(limit, num_classes * each)
    best, places = tf.math.top_k(flat, count, sorted=True)
    classes = tf.where(best > 0.0, places // each + 1, 0)
    chosen = tf.gather(tf.reshape(kept_boxes, [-1, num_classes * each, 4]), places, batch_dims=1)
    padding = [[0, 0], [0, limit - count]]
    return tf.pad(chosen, [*padding, [0, 0]]), tf.pad(best, padding), tf.pad(classes, padding)
