"""From the box head's outputs to detections (Faster R-CNN, arXiv 1506.01497, section 3.3)."""

from __future__ import annotations

import tensorflow as tf

from panoptic_cli.config.schema import DetectionGenerator
from panoptic_cli.models.panoptic_fpn import boxes as box_ops
from panoptic_cli.models.panoptic_fpn.nms import suppress_by_class


def detect(
    logits: tf.Tensor, offsets: tf.Tensor, proposals: tf.Tensor, image_shape: tf.Tensor, config: DetectionGenerator
) -> dict[str, tf.Tensor]:
    """Decodes every proposal for every class, suppresses within the classes and keeps the best.

    Args:
        logits: float32 [batch, n, classes], class 0 background.
        offsets: float32 [batch, n, classes, 4] to the proposals.
        proposals: float32 [batch, n, 4] in pixels of the input.
        image_shape: float32 [batch, 2], (height, width) that boxes are clipped to.
        config: how many, and thresholds.

    Returns:
        detection_boxes float32 [batch, k, 4], detection_scores [batch, k] descending, detection_classes
        int32 [batch, k] (0 behind the last), num_detections int32 [batch].
    """
    probabilities = _best_of_classes(tf.nn.softmax(logits)[..., 1:], config.pre_nms_top_k)
    boxes = box_ops.decode(offsets[:, :, 1:], proposals[:, :, None, :], box_ops.BOX_HEAD_WEIGHTS)
    boxes, scores, classes, count = suppress_by_class(
        box_ops.clip(boxes, image_shape),
        probabilities,
        config.max_num_detections,
        config.max_num_detections,
        config.nms_iou_threshold,
        config.pre_nms_score_threshold,
    )
    found = tf.range(config.max_num_detections)[None, :] < count[:, None]
    return {
        "detection_boxes": boxes,
        "detection_scores": scores,
        "detection_classes": tf.where(found, classes + 1, 0),
        "num_detections": count,
    }


def _best_of_classes(scores: tf.Tensor, top_k: int) -> tf.Tensor:
    """Sets all but the `top_k` best scores of each class to 0: float32 [batch, n, classes]; equal ones stay."""
    if scores.shape[1] is None or scores.shape[1] <= top_k:
        return scores
    least = tf.math.top_k(tf.transpose(scores, [0, 2, 1]), top_k).values[..., -1]
    return tf.where(scores >= least[:, None, :], scores, 0.0)
