"""The network in operations that other runtimes have: for TensorFlow Lite and ONNX.

Of the network's operations only TensorFlow's combined suppression kernel exists nowhere else. Here the suppression that
is made of elementary operations takes its place, class by class; it keeps the same boxes.
"""

from __future__ import annotations

import tensorflow as tf

from panoptic_cli.config.schema import DetectionGenerator
from panoptic_cli.models.panoptic_fpn import boxes as box_ops
from panoptic_cli.models.panoptic_fpn.anchors import anchor_boxes
from panoptic_cli.models.panoptic_fpn.network import PanopticFPN
from panoptic_cli.models.panoptic_fpn.nms import suppress_sorted
from panoptic_cli.models.panoptic_fpn.roi_align import roi_align
from panoptic_cli.models.panoptic_fpn.rpn import propose


def portable_outputs(network: PanopticFPN, images: tf.Tensor, elementary: bool) -> dict[str, tf.Tensor]:
    """Detects and segments one picture; see `PanopticFPN.call`.

    Args:
        network: the network.
        images: float32 [1, height, width, 3], normalised and padded.
        elementary: suppress with elementary operations, which TensorFlow Lite has, instead of one kernel on lists
            of one class each, for which ONNX has an operation.

    Returns:
        What `PanopticFPN.call` returns.
    """
    config = network.config
    height, width = images.shape[1:3]
    image_shape = tf.constant([[height, width]], tf.float32)
    features = network.pyramid(images, training=False)
    scores, offsets = network.rpn_head(features, training=False)
    anchors = anchor_boxes(config.anchor, (height, width), network.levels[0], network.levels[-1])
    proposals, _ = propose(
        scores, offsets, anchors, image_shape, config.roi_generator, training=False, compiled=elementary
    )
    align = config.roi_aligner
    crops = roi_align(features, _with_area(proposals), align.crop_size, align.sample_offset)
    logits, box_offsets = network.detection_head(crops, training=False)
    boxes = box_ops.decode(box_offsets[:, :, 1:], proposals[:, :, None, :], box_ops.BOX_HEAD_WEIGHTS)
    boxes = box_ops.clip(boxes, image_shape)
    outputs = _detect(boxes[0], tf.nn.softmax(logits)[0, :, 1:], config.detection_generator, elementary)
    outputs = {name: value[None] for name, value in outputs.items()}

    align = config.mask_roi_aligner
    crops = roi_align(features, _with_area(outputs["detection_boxes"]), align.crop_size, align.sample_offset)
    masks = network.mask_head(crops, outputs["detection_classes"], training=False)
    outputs["detection_masks"] = tf.sigmoid(masks)
    outputs["semantic_logits"] = network.segmentation_head(features)
    return outputs


def _with_area(boxes: tf.Tensor) -> tf.Tensor:
    """Makes empty boxes a thousandth of a pixel large: their level then has no logarithm of 0.

    tf2onnx turns tf.where into products, which an infinity in the branch that is not chosen would make NaN.
    """
    first, last = boxes[..., :2], boxes[..., 2:]
    return tf.concat([first, tf.maximum(last, first + 1e-3)], axis=-1)


def _detect(boxes: tf.Tensor, scores: tf.Tensor, config: DetectionGenerator, elementary: bool) -> dict[str, tf.Tensor]:
    """Suppresses within the classes and keeps the best of all: boxes [n, classes, 4], scores [n, classes]."""
    limit = config.max_num_detections
    order = min(int(scores.shape[0]), config.pre_nms_top_k)
    by_class, places = tf.math.top_k(tf.transpose(scores), order, sorted=True)  # [classes, order]
    candidates = tf.gather(tf.transpose(boxes, [1, 0, 2]), places, batch_dims=1)
    kept_boxes, kept_scores = suppress_sorted(
        candidates,
        by_class,
        min(limit, order),
        config.nms_iou_threshold,
        config.pre_nms_score_threshold,
        compiled=elementary,
    )
    flat = tf.reshape(kept_scores, [-1])
    count = min(limit, int(flat.shape[0]))
    best, places = tf.math.top_k(flat, count, sorted=True)
    found = best > 0.0
    labels = tf.where(found, places // min(limit, order) + 1, 0)
    chosen = tf.gather(tf.reshape(kept_boxes, [-1, 4]), places)
    behind = limit - count
    return {
        "detection_boxes": tf.pad(chosen, [[0, behind], [0, 0]]),
        "detection_scores": tf.pad(best, [[0, behind]]),
        "detection_classes": tf.pad(labels, [[0, behind]]),
        "num_detections": tf.reduce_sum(tf.cast(found, tf.int32)),
    }
