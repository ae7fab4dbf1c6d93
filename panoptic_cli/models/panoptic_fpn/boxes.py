"""Operations on boxes: (y1, x1, y2, x2), float32, in pixels of the network's input unless a name says otherwise."""

from __future__ import annotations

import math
from collections.abc import Sequence

import tensorflow as tf

_EPSILON = 1e-8
_MAX_LOG_SIZE = math.log(1000.0 / 16.0)  # keeps exp() of a bad prediction finite
BOX_HEAD_WEIGHTS = (10.0, 10.0, 5.0, 5.0)  # scale of the box head's targets (dy, dx, dh, dw)


def _centres_and_sizes(boxes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    low, high = boxes[..., :2], boxes[..., 2:]
    size = high - low
    return low + 0.5 * size, size


def encode(boxes: tf.Tensor, anchors: tf.Tensor, weights: Sequence[float] | None = None) -> tf.Tensor:
    """Encodes boxes relative to anchors (arXiv 1506.01497, section 3.1.2).

    Args:
        boxes: float [..., 4].
        anchors: [..., 4] in the same dtype, broadcastable to the boxes.
        weights: four factors for (dy, dx, dh, dw).

    Returns:
        [..., 4] in the same dtype, (dy, dx, dh, dw): centre offsets in anchor sizes, and logarithms of the size ratios.
    """
    centre, size = _centres_and_sizes(boxes)
    anchor_centre, anchor_size = _centres_and_sizes(anchors)
    anchor_size = anchor_size + _EPSILON
    encoded = tf.concat([(centre - anchor_centre) / anchor_size, tf.math.log((size + _EPSILON) / anchor_size)], axis=-1)
    return encoded if weights is None else encoded * tf.constant(weights, encoded.dtype)


def decode(encoded: tf.Tensor, anchors: tf.Tensor, weights: Sequence[float] | None = None) -> tf.Tensor:
    """Inverts `encode`; size ratios are limited to 1000 / 16.

    Args:
        encoded: float [..., 4], (dy, dx, dh, dw).
        anchors: [..., 4] in the same dtype, broadcastable to `encoded`.
        weights: the factors passed to `encode`.

    Returns:
        Boxes [..., 4] in the same dtype.
    """
    if weights is not None:
        encoded = encoded / tf.constant(weights, encoded.dtype)
    anchor_centre, anchor_size = _centres_and_sizes(anchors)
    centre = encoded[..., :2] * anchor_size + anchor_centre
    size = tf.exp(tf.minimum(encoded[..., 2:], _MAX_LOG_SIZE)) * anchor_size
    low = centre - 0.5 * size
    return tf.concat([low, low + size], axis=-1)


def clip(boxes: tf.Tensor, image_shape: tf.Tensor) -> tf.Tensor:
    """Clips boxes to the image.

    Args:
        boxes: float [batch, ..., 4].
        image_shape: [batch, 2], (height, width) of each image in the pixels of the boxes.

    Returns:
        The clipped boxes, in the same shape and dtype.
    """
    limits = tf.cast(tf.concat([image_shape, image_shape], axis=-1), boxes.dtype)
    limits = tf.reshape(limits, [-1] + [1] * (len(boxes.shape) - 2) + [4])
    return tf.maximum(tf.minimum(boxes, limits), 0.0)


def iou(boxes: tf.Tensor, others: tf.Tensor) -> tf.Tensor:
    """Computes the pairwise intersection over union.

    Args:
        boxes: [..., n, 4], any numeric dtype.
        others: [..., m, 4], any numeric dtype.

    Returns:
        float32 [..., n, m] in 0..1; 0 where the boxes do not overlap.
    """
    boxes, others = tf.cast(boxes, tf.float32), tf.cast(others, tf.float32)
    y1, x1, y2, x2 = tf.unstack(boxes[..., :, None, :], axis=-1)
    v1, u1, v2, u2 = tf.unstack(others[..., None, :, :], axis=-1)
    height = tf.maximum(tf.minimum(y2, v2) - tf.maximum(y1, v1), 0.0)
    width = tf.maximum(tf.minimum(x2, u2) - tf.maximum(x1, u1), 0.0)
    intersection = height * width
    union = (y2 - y1) * (x2 - x1) + (v2 - v1) * (u2 - u1) - intersection
    return tf.where(intersection > 0.0, intersection / union, tf.zeros_like(intersection))
