"""Parsing of records in tf.data; records/schema.py defines the names of the fields and writes them."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from panoptic_cli.pipeline.preprocessing import Preprocessing
from panoptic_cli.records import schema

_BIT_DEPTH_BYTE = 24  # in a PNG, after the signature (8), IHDR length and name (8), width and height (8)
_LABELS = 1 << 16  # number of values in a PNG with 16 bits


class AnnotatedPicture(NamedTuple):
    """The fields of a record that training needs; the record may be ours or the reference's.

    Attributes:
        image: uint8 [h, w, 3].
        boxes: float32 [n, 4], (y1, x1, y2, x2) as fractions of the picture.
        category_ids: int64 [n], the category of each object.
        is_crowd: bool [n].
        masks: string [n], PNGs of 0 and 1 in the size of the picture.
        labels: string, a greyscale PNG that gives each pixel a label; see `decode_label_png`.
        label_ids: int32 [k], the category id of each label, 0 for void. Records that contain only semantic classes
            (feature image/segmentation/class/encoded) have the negative class instead.
        label_is_crowd: bool [k], whether the label is a crowd; False where the record does not say.
        instances: string, a greyscale PNG that tells the things of a category apart, "" where each has its own label.
    """

    image: tf.Tensor
    boxes: tf.Tensor
    category_ids: tf.Tensor
    is_crowd: tf.Tensor
    masks: tf.Tensor
    labels: tf.Tensor
    label_ids: tf.Tensor
    label_is_crowd: tf.Tensor
    instances: tf.Tensor


def parse_record(serialized: tf.Tensor, preprocessing: Preprocessing) -> AnnotatedPicture:
    """Parses a serialised tf.train.Example, a string scalar, and decodes its picture as a model family does."""
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
            schema.SEGMENT_IS_CROWD: integers,
            schema.CATEGORY_MASK: optional,
            schema.INSTANCE_MASK: optional,
            schema.SEMANTIC_MASK: optional,
        },
    )
    edges = (schema.OBJECT_YMIN, schema.OBJECT_XMIN, schema.OBJECT_YMAX, schema.OBJECT_XMAX)
    category_ids = parsed[schema.OBJECT_LABEL]
    # Records without crowd flags contain no crowds.
    is_crowd = tf.cond(
        tf.size(parsed[schema.OBJECT_IS_CROWD]) > 0,
        lambda: parsed[schema.OBJECT_IS_CROWD] > 0,
        lambda: tf.zeros_like(category_ids, tf.bool),
    )
    labels, label_ids, label_is_crowd, instances = _labels(parsed)
    return AnnotatedPicture(
        image=preprocessing.decode(parsed[schema.IMAGE_ENCODED]),
        boxes=tf.stack([parsed[edge] for edge in edges], axis=-1),
        category_ids=category_ids,
        is_crowd=is_crowd,
        masks=parsed[schema.OBJECT_MASK],
        labels=labels,
        label_ids=label_ids,
        label_is_crowd=label_is_crowd,
        instances=instances,
    )


def _labels(parsed: dict[str, tf.Tensor]) -> tuple[tf.Tensor, ...]:
    """Returns the fields about labels, for our segments, or the reference's categories or semantic classes."""

    def segments() -> tuple[tf.Tensor, ...]:
        ids = tf.cast(parsed[schema.SEGMENT_CATEGORY], tf.int32)
        crowds = parsed[schema.SEGMENT_IS_CROWD] > 0
        missing = tf.maximum(tf.size(ids) - tf.size(crowds), 0)
        crowds = tf.pad(crowds[: tf.size(ids)], [[1, missing]])
        return parsed[schema.SEGMENT_MASK], tf.concat([[0], ids], axis=0), crowds, tf.constant("")

    def categories() -> tuple[tf.Tensor, ...]:
        mask, ids = parsed[schema.CATEGORY_MASK], tf.range(_LABELS)
        return mask, ids, tf.zeros([_LABELS], tf.bool), parsed[schema.INSTANCE_MASK]

    def semantic() -> tuple[tf.Tensor, ...]:
        return parsed[schema.SEMANTIC_MASK], -tf.range(_LABELS), tf.zeros([_LABELS], tf.bool), tf.constant("")

    def present(key: str) -> tf.Tensor:
        return tf.strings.length(parsed[key]) > 0

    return tf.cond(
        present(schema.SEGMENT_MASK),
        segments,
        lambda: tf.cond(present(schema.CATEGORY_MASK), categories, semantic),
    )


def has_wide_labels(encoded: tf.Tensor) -> tf.Tensor:
    """Returns whether a PNG has 16 bits a channel, a bool scalar."""
    return tf.strings.substr(encoded, _BIT_DEPTH_BYTE, 1) == b"\x10"


def decode_label_png(encoded: tf.Tensor, wide: bool) -> tf.Tensor:
    """Decodes a greyscale PNG of 16 bits (`wide`) to int32 [height, width], or of 8 bits to uint8."""
    if not wide:
        return tf.io.decode_png(encoded, channels=1)[..., 0]
    return tf.cast(tf.io.decode_png(encoded, channels=1, dtype=tf.uint16)[..., 0], tf.int32)


def look_up(table: object, ids: tf.Tensor) -> tf.Tensor:
    """Looks up ids in a table, int32 [k]; ids outside the table give 0."""
    table = tf.constant(table, tf.int32)
    known = (ids >= 0) & (ids < tf.size(table, out_type=ids.dtype))
    return tf.where(known, tf.gather(table, tf.where(known, ids, 0)), 0)
