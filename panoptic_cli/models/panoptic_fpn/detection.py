"""Detections from the box head's outputs (Faster R-CNN, arXiv 1506.01497, section 3.3)."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from panoptic_cli.config.panoptic_fpn import DetectionGenerator
from panoptic_cli.models.panoptic_fpn import boxes as box_ops
from panoptic_cli.models.panoptic_fpn.nms import (
    Suppression,
    considered,
    first_kept,
    keep_all,
    suppress_by_class,
    suppress_sorted,
)

_MOST_CANDIDATES = 3072  # of a picture that are compared at once; a matrix of floats takes 38 MB


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
    if suppression == "matrix":
        boxes, scores, classes = _on_the_device(boxes, scores, config)
        count = tf.reduce_sum(tf.cast(classes > 0.0, tf.float32), axis=1)
        count, classes = tf.cast(count, tf.int32), tf.cast(classes, tf.int32)
    elif suppression == "kernel":
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


def _on_the_device(
    boxes: tf.Tensor, scores: tf.Tensor, config: DetectionGenerator
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Applies NMS to the candidates of all classes at once; the arguments and results are those of `_class_by_class`.

    Where a picture has more candidates above the threshold than a list holds, the host does it. Classes are numbers of
    float32, because TensorFlow computes with int32 on the host.
    """
    _, proposals, num_classes = scores.shape
    scores = _best_of_classes(scores, config.pre_nms_top_k)
    scores = tf.where(considered(boxes, scores, config.pre_nms_score_threshold), scores, 0.0)
    count = min(proposals * num_classes, _MOST_CANDIDATES)

    def at_once() -> tuple[tf.Tensor, ...]:
        best, places = tf.math.top_k(tf.reshape(scores, [-1, proposals * num_classes]), count, sorted=True)
        candidates = tf.gather(tf.reshape(boxes, [-1, proposals * num_classes, 4]), places, batch_dims=1)
        class_of_place = tf.constant(np.tile(np.arange(1, num_classes + 1, dtype=np.float32), proposals))
        classes = tf.gather(class_of_place, places)
        overlaps = box_ops.iou(candidates, candidates) > config.nms_iou_threshold
        overlaps &= classes[:, :, None] == classes[:, None, :]
        (kept,) = keep_all([overlaps], [best > 0.0])
        found = tf.where(kept, classes, 0.0)[..., None]
        limit = config.max_num_detections
        most = min(limit, count)
        both, kept_scores = first_kept(tf.concat([candidates, found], axis=-1), best, kept, most)
        padding = [[0, 0], [0, limit - most]]
        both, kept_scores = tf.pad(both, [*padding, [0, 0]]), tf.pad(kept_scores, padding)
        return both[..., :4], kept_scores, both[..., 4]

    def on_the_host() -> tuple[tf.Tensor, ...]:
        limit, threshold = config.max_num_detections, config.pre_nms_score_threshold
        found, kept_scores, classes, number = suppress_by_class(
            boxes, scores, limit, limit, config.nms_iou_threshold, threshold
        )
        listed = tf.range(limit)[None, :] < number[:, None]
        return found, kept_scores, tf.cast(tf.where(listed, classes + 1, 0), tf.float32)

    if count == proposals * num_classes:
        return at_once()
    candidates = tf.reduce_sum(tf.cast(scores > 0.0, tf.float32), axis=[1, 2])
    result: tuple[tf.Tensor, tf.Tensor, tf.Tensor] = tf.cond(tf.reduce_all(candidates <= count), at_once, on_the_host)
    return result


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
