"""COCO's panoptic format in TensorFlow operations, for served models; `results.coco_files` writes the same format."""

from __future__ import annotations

import tensorflow as tf


def encode_segment_png(segment_map: tf.Tensor) -> tf.Tensor:
    """Encodes segment ids, int32 [height, width], as an 8-bit RGB PNG: id = r + 256 g + 65536 b."""
    colors = tf.bitwise.right_shift(segment_map[..., None], tf.constant([0, 8, 16])) & 255
    return tf.io.encode_png(tf.cast(colors, tf.uint8), compression=3)


def segment_boxes(segment_map: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
    """Computes COCO's `bbox` of each segment.

    Args:
        segment_map: int32 [height, width], ids 0 .. count; each id from 1 on has at least one pixel.
        count: int32 scalar, the number of segments.

    Returns:
        int32 [count, 4], (x, y, width, height) in pixels.
    """
    shape = tf.shape(segment_map)
    starts, ends = [], []
    for axis in (1, 0):
        size = shape[axis]
        places = tf.range(size)[None, :] if axis else tf.range(size)[:, None]
        length = (count + 1) * size
        keys = tf.reshape(segment_map * size + places, [-1])
        pixels = tf.math.bincount(keys, minlength=length, maxlength=length, dtype=tf.int32)
        hits = tf.reshape(pixels, [count + 1, size])[1:] > 0
        along = tf.range(size)[None, :]
        starts.append(tf.reduce_min(tf.where(hits, along, size), axis=1))
        ends.append(tf.reduce_max(tf.where(hits, along + 1, 0), axis=1))
    return tf.concat([tf.stack(starts, axis=1), tf.stack(ends, axis=1) - tf.stack(starts, axis=1)], axis=1)
