"""Fused maps to COCO's panoptic format, in TensorFlow operations: what `evaluation.predictions` writes, for servers."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from panoptic_cli.categories import CategoryTable


class CocoSegments(NamedTuple):
    """One picture in COCO's panoptic format; the lists have room for every segment that there can be.

    Attributes:
        png: string, 8-bit RGB PNG whose pixels hold the segment id as r + 256 g + 65536 b, 0 where void.
        count: int32, how many segments there are; the lists are zero behind them.
        ids: int32 [s], 1 .. count, in the order of (category, instance).
        category_ids: int32 [s].
        areas: int32 [s], pixels.
        boxes: int32 [s, 4], (x, y, width, height) in pixels: COCO's bbox.
        detections: int32 [s], 1-based place of a thing's detection, 0 for stuff.
    """

    png: tf.Tensor
    count: tf.Tensor
    ids: tf.Tensor
    category_ids: tf.Tensor
    areas: tf.Tensor
    boxes: tf.Tensor
    detections: tf.Tensor


def coco_segments(
    category_map: tf.Tensor, instance_map: tf.Tensor, detection_category_ids: tf.Tensor, table: CategoryTable
) -> CocoSegments:
    """Numbers the segments of one fused picture and describes them.

    Args:
        category_map: int32 [height, width], ids of the table, 0 where void.
        instance_map: int32 [height, width], 1-based place of the detection, 0 for stuff and void.
        detection_category_ids: int32 [n], the category of each detection.
        table: the categories.

    Returns:
        The segments; as many places as there are detections and kinds of stuff.
    """
    stuff = sorted(c.id for c in table.stuff)
    num_stuff, room = len(stuff), len(stuff) + int(detection_category_ids.shape[0])
    # Every segment that there can be has a slot: void, the kinds of stuff, the detections.
    slot_of_id = tf.scatter_nd([[i] for i in stuff], tf.range(1, num_stuff + 1), [table.max_id + 1])
    slots = tf.where(instance_map > 0, instance_map + num_stuff, tf.gather(slot_of_id, category_map))
    slot_ids = tf.concat([[0], stuff, detection_category_ids], axis=0)
    slot_detections = tf.maximum(tf.range(room + 1) - num_stuff, 0)

    areas = _count(slots, room + 1)
    there = (areas > 0) & (tf.range(room + 1) > 0)
    keys = tf.cast(slot_ids, tf.int64) * (room + 1) + tf.cast(slot_detections, tf.int64)
    keys = tf.where(there, keys, tf.int64.max)
    order = tf.argsort(keys, stable=True)[:room]  # slots of the segments, then the others
    count = tf.reduce_sum(tf.cast(there, tf.int32))
    used = tf.range(room) < count
    ids = tf.where(used, tf.range(1, room + 1), 0)
    id_of_slot = tf.scatter_nd(order[:, None], ids, [room + 1])
    id_map = tf.gather(id_of_slot, slots)

    def listed(values: tf.Tensor) -> tf.Tensor:
        return tf.where(used, tf.gather(values, order), 0)

    return CocoSegments(
        png=_encode(id_map),
        count=count,
        ids=ids,
        category_ids=listed(slot_ids),
        areas=listed(areas),
        boxes=_boxes(id_map, room),
        detections=listed(slot_detections),
    )


def _encode(id_map: tf.Tensor) -> tf.Tensor:
    colors = tf.bitwise.right_shift(id_map[..., None], tf.constant([0, 8, 16])) & 255
    return tf.io.encode_png(tf.cast(colors, tf.uint8), compression=3)


def _boxes(id_map: tf.Tensor, room: int) -> tf.Tensor:
    """(x, y, width, height) of the pixels of each id 1 .. room: int32 [room, 4], zeros for an id without any."""
    shape = tf.shape(id_map)
    starts, ends = [], []
    for axis in (1, 0):
        size = shape[axis]
        places = tf.range(size)[None, :] if axis else tf.range(size)[:, None]
        hits = tf.reshape(_count(id_map * size + places, (room + 1) * size), [room + 1, size])[1:] > 0
        along = tf.range(size)[None, :]
        starts.append(tf.reduce_min(tf.where(hits, along, size), axis=1))
        ends.append(tf.reduce_max(tf.where(hits, along + 1, 0), axis=1))
    low, sides = tf.stack(starts, axis=1), tf.stack(ends, axis=1) - tf.stack(starts, axis=1)
    return tf.where(sides[:, :1] > 0, tf.concat([low, sides], axis=1), 0)


def _count(values: tf.Tensor, length: tf.Tensor | int) -> tf.Tensor:
    """How often each of 0 .. length - 1 is there: int32 [length]."""
    return tf.math.bincount(tf.reshape(values, [-1]), minlength=length, maxlength=length, dtype=tf.int32)
