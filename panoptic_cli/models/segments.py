"""The result of any model family for one picture, as tensors; `results.prediction` has the same in NumPy."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import tensorflow as tf


class Segments(NamedTuple):
    """The segments of one picture at its own size, and the detections behind them.

    All category ids are in the data set's table. Segments are ordered by category, then by detection.

    Attributes:
        segment_map: int32 [height, width], the id 1 .. s of each pixel's segment; 0 for void.
        category_ids: int32 [s], the category of each segment.
        detection_of_segment: int32 [s], the 1-based index of a thing's detection; 0 for stuff.
        areas: int32 [s], in pixels, at least 1.
        boxes: float32 [n, 4], (y1, x1, y2, x2) of the detections in pixels of the picture.
        scores: float32 [n], 0..1, descending.
        detection_category_ids: int32 [n].
        masks: ragged int32 [n, (runs)], COCO's run lengths: the lengths of alternating runs of 0 and 1, starting with
            0, in column-major order.
        semantic_map: int32 [height, width], the result of a semantic head alone: category ids of stuff, ANY_THING for
            any thing, 0 for void. None for a family without such a head.
    """

    segment_map: tf.Tensor
    category_ids: tf.Tensor
    detection_of_segment: tf.Tensor
    areas: tf.Tensor
    boxes: tf.Tensor
    scores: tf.Tensor
    detection_category_ids: tf.Tensor
    masks: tf.RaggedTensor
    semantic_map: tf.Tensor | None


def number_segments(
    category_map: tf.Tensor, detection_map: tf.Tensor, detection_category_ids: tf.Tensor, stuff_ids: list[int]
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
    """Numbers the segments of a fused picture.

    Args:
        category_map: int32 [height, width], category ids; 0 for void.
        detection_map: int32 [height, width], the 1-based index of the detection; 0 for stuff and void.
        detection_category_ids: int32 [n].
        stuff_ids: the category ids of stuff.

    Returns:
        The first four fields of `Segments`.
    """
    stuff = sorted(stuff_ids)
    first = len(stuff) + 1  # the first slot of the detections
    # Every possible segment has a slot: void, then the stuff categories, then the detections.
    slot_of_stuff = np.zeros(max(stuff, default=0) + 1, np.int32)
    slot_of_stuff[stuff] = np.arange(1, first)
    slot_of_id = tf.constant(slot_of_stuff)
    is_thing = detection_map > 0
    slots = tf.where(is_thing, detection_map + (first - 1), tf.gather(slot_of_id, tf.where(is_thing, 0, category_map)))
    slot_ids = tf.concat([[0], tf.constant(stuff, tf.int32), detection_category_ids], axis=0)
    count = tf.size(slot_ids)
    slot_detections = tf.maximum(tf.range(count) - (first - 1), 0)

    areas = tf.math.bincount(tf.reshape(slots, [-1]), minlength=count, maxlength=count, dtype=tf.int32)
    used = tf.where((areas > 0) & (tf.range(count) > 0))[:, 0]
    keys = tf.cast(tf.gather(slot_ids, used), tf.int64) * tf.cast(count, tf.int64) + used
    order = tf.gather(used, tf.argsort(keys))
    ids = tf.range(1, tf.size(order) + 1)
    id_of_slot = tf.scatter_nd(order[:, None], ids, tf.cast(count, tf.int64)[None])
    listed = [tf.gather(values, order) for values in (slot_ids, slot_detections, areas)]
    return tf.gather(id_of_slot, slots), listed[0], listed[1], listed[2]
