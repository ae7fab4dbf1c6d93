"""The reading side of the record schema, inside tf.data (the names and the writing side are in records.py)."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from panoptic_cli.categories import LabelSpace
from panoptic_cli.pipeline.preprocessing import decode_image
from panoptic_cli.records import schema

_BIT_DEPTH_BYTE = 24  # of a PNG: signature (8), IHDR length and name (8), width and height (8), then the bit depth
_LABELS = 1 << 16  # values of a PNG with 16 bits


def parse_record(serialized: tf.Tensor, label_space: LabelSpace) -> dict[str, tf.Tensor]:
    """Parses what training needs of one record, ours or the reference's.

    Args:
        serialized: string scalar, a tf.train.Example.
        label_space: from category ids to classes.

    Returns:
        image uint8 [h, w, 3]; boxes float32 [n, 4] as fractions (y1, x1, y2, x2); classes int32 [n] of the box head
        (0: no thing of the table); is_crowd bool [n]; masks string [n], PNGs of 0 and 1;
        labels string, a PNG (see decode_label_png), and label_classes int32 [k], the class of the semantic head of
        each label.
    """
    strings = tf.io.RaggedFeature(tf.string)
    floats = tf.io.RaggedFeature(tf.float32)
    integers = tf.io.RaggedFeature(tf.int64)
    optional = tf.io.FixedLenFeature([], tf.string, default_value="")
    parsed = tf.io.parse_single_example(
        serialized,
        {
            schema.IMAGE_ENCODED: tf.io.FixedLenFeature([], tf.string),
            schema.OBJECT_YMIN: floats,
            schema.OBJECT_XMIN: floats,
            schema.OBJECT_YMAX: floats,
            schema.OBJECT_XMAX: floats,
            schema.OBJECT_LABEL: integers,
            schema.OBJECT_IS_CROWD: integers,
            schema.OBJECT_MASK: strings,
            schema.SEGMENT_MASK: optional,
            schema.SEGMENT_CATEGORY: integers,
            schema.CATEGORY_MASK: optional,
            schema.SEMANTIC_MASK: optional,
        },
    )
    edges = (schema.OBJECT_YMIN, schema.OBJECT_XMIN, schema.OBJECT_YMAX, schema.OBJECT_XMAX)
    labels = parsed[schema.OBJECT_LABEL]
    # Records without the crowd flags hold no crowds.
    crowd = tf.cond(
        tf.size(parsed[schema.OBJECT_IS_CROWD]) > 0,
        lambda: parsed[schema.OBJECT_IS_CROWD] > 0,
        lambda: tf.zeros_like(labels, tf.bool),
    )
    encoded_labels, label_classes = _labels(parsed, label_space)
    return {
        "image": decode_image(parsed[schema.IMAGE_ENCODED]),
        "boxes": tf.stack([parsed[edge] for edge in edges], axis=-1),
        "classes": _lookup(label_space.thing_class_of_id, labels),
        "is_crowd": crowd,
        "masks": parsed[schema.OBJECT_MASK],
        "labels": encoded_labels,
        "label_classes": label_classes,
    }


def _lookup(table: object, ids: tf.Tensor) -> tf.Tensor:
    """Looks ids up; those beyond the table are 0."""
    table = tf.constant(table, tf.int32)
    known = (ids >= 0) & (ids < tf.size(table, out_type=ids.dtype))
    return tf.where(known, tf.gather(table, tf.where(known, ids, 0)), 0)


def has_wide_labels(encoded: tf.Tensor) -> tf.Tensor:
    """Whether a PNG has 16 bits a channel: bool scalar."""
    return tf.strings.substr(encoded, _BIT_DEPTH_BYTE, 1) == b"\x10"


def decode_label_png(encoded: tf.Tensor, wide: bool) -> tf.Tensor:
    """Decodes a greyscale PNG of 16 bits (`wide`) to int32 [height, width], or of 8 bits to uint8."""
    if not wide:
        return tf.io.decode_png(encoded, channels=1)[..., 0]
    return tf.cast(tf.io.decode_png(encoded, channels=1, dtype=tf.uint16)[..., 0], tf.int32)


def _labels(parsed: dict[str, tf.Tensor], label_space: LabelSpace) -> tuple[tf.Tensor, tf.Tensor]:
    """The PNG of our segments, or else the reference's category mask or semantic mask, and its labels' classes."""
    of_id = np.zeros(_LABELS, np.int32)  # ids beyond the table are void
    of_id[: len(label_space.semantic_class_of_id)] = label_space.semantic_class_of_id[:_LABELS]

    def segments() -> tuple[tf.Tensor, tf.Tensor]:
        classes = _lookup(label_space.semantic_class_of_id, parsed[schema.SEGMENT_CATEGORY])
        return parsed[schema.SEGMENT_MASK], tf.concat([[0], classes], axis=0)

    def categories() -> tuple[tf.Tensor, tf.Tensor]:
        return parsed[schema.CATEGORY_MASK], tf.constant(of_id)

    def semantic() -> tuple[tf.Tensor, tf.Tensor]:
        return parsed[schema.SEMANTIC_MASK], tf.range(_LABELS)

    def present(key: str) -> tf.Tensor:
        return tf.strings.length(parsed[key]) > 0

    return tf.cond(
        present(schema.SEGMENT_MASK),
        segments,
        lambda: tf.cond(present(schema.CATEGORY_MASK), categories, semantic),
    )
