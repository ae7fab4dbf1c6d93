"""The training targets of one picture: a map of its segments, and their classes."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from panoptic_cli.categories import CategoryTable
from panoptic_cli.config.schema import Task
from panoptic_cli.models.eomt.preprocessing import preprocessing_of
from panoptic_cli.pipeline.augmentation import AugmentedPicture
from panoptic_cli.pipeline.parsing import AnnotatedPicture, decode_label_png, has_wide_labels
from panoptic_cli.pipeline.preprocessing import Resizing, resize_labels


class EomtTargets:
    """Computes the training targets of a picture.

    Every segment is a target with its class; of stuff, all pixels of a category are one. Crowds, unlabelled pixels and
    padding belong to none. Of more segments than `max_num_instances`, the largest are taken.

    Args:
        task: the sizes.
        table: the categories; class i is the i-th of them.

    Attributes:
        preprocessing: how pictures are prepared.
    """

    def __init__(self, task: Task, table: CategoryTable) -> None:
        self.preprocessing = preprocessing_of(task.model.eomt)
        self._most = task.train_data.parser.max_num_instances
        self._class_of_id = np.full(table.max_id + 1, -1, np.int32)
        for place, category in enumerate(table.categories):
            self._class_of_id[category.id] = place
        self._is_stuff = np.array([not category.isthing for category in table.categories])

    def accepts(self, record: AnnotatedPicture, resizing: Resizing, mirrored: tf.Tensor) -> tf.Tensor:
        """Returns whether there is a segment in the crop, a bool scalar; one without would teach nothing."""
        size = tf.cast(tf.constant(self.preprocessing.input_size), tf.int32)

        def any_segment() -> tf.Tensor:
            labels, ids = _segments(record)
            classes = self._classes(ids, record.label_is_crowd)
            height, width = tf.unstack(tf.shape(labels))
            scale = tf.cast(resizing.geometry.scale, tf.float32)
            # The pixels that the first and the last row and column of the crop are taken from.
            first = tf.cast((tf.cast(resizing.offset, tf.float32) + 0.5) / scale, tf.int32)
            last = tf.cast((tf.cast(resizing.offset + size, tf.float32) - 0.5) / scale, tf.int32)
            top, bottom = first[0], tf.minimum(last[0] + 1, height)
            left, right = first[1], tf.minimum(last[1] + 1, width)
            left, right = tf.cond(mirrored, lambda: (width - right, width - left), lambda: (left, right))
            return tf.reduce_any(tf.gather(classes, labels[top:bottom, left:right]) >= 0)

        is_cut = tf.reduce_any(resizing.scaled_size > size)
        return tf.cond(is_cut, any_segment, lambda: tf.constant(True))

    def __call__(self, picture: AugmentedPicture) -> dict[str, Any]:
        """Computes the targets.

        Returns:
            segment_map int32 [height, width], the number 1, 2, ... of each pixel's segment, 0 for none;
            segment_classes int32 [max_num_instances], the class of each segment, padded with -1.
        """
        labels, ids = _segments(picture)
        count = tf.size(ids)
        resized = resize_labels(
            labels,
            picture.resizing,
            self.preprocessing.input_size,
            0,
            tf.range(count),
            picture.mirrored,
            truncated=False,
        )
        classes = self._classes(ids, picture.label_is_crowd)
        joined = self._joined(classes)
        areas = tf.math.bincount(tf.reshape(resized, [-1]), minlength=count, maxlength=count)
        areas = tf.math.unsorted_segment_sum(areas, joined, count)
        areas = tf.where(classes >= 0, areas, 0)
        # The largest first; the order does not matter otherwise.
        order = tf.argsort(-areas, stable=True)
        taken = tf.math.count_nonzero(areas > 0, dtype=tf.int32)
        taken = tf.minimum(taken, self._most)
        numbers = tf.scatter_nd(order[:taken, None], tf.range(1, taken + 1), [count])
        found = tf.pad(tf.gather(classes, order[:taken]), [[0, self._most - taken]], constant_values=-1)
        return {
            "segment_map": tf.ensure_shape(
                tf.gather(tf.gather(numbers, joined), resized), self.preprocessing.input_size
            ),
            "segment_classes": tf.ensure_shape(found, [self._most]),
        }

    def _classes(self, ids: tf.Tensor, is_crowd: tf.Tensor) -> tf.Tensor:
        """Returns the class of each label, int32 [k]; -1 for those that are no target."""
        table = tf.constant(self._class_of_id)
        known = (ids >= 0) & (ids < len(self._class_of_id))
        classes = tf.where(known, tf.gather(table, tf.where(known, ids, 0)), -1)
        # Labels of a category and an instance do not say what is a crowd.
        is_crowd = tf.pad(is_crowd[: tf.size(ids)], [[0, tf.maximum(tf.size(ids) - tf.size(is_crowd), 0)]])
        return tf.where(is_crowd, -1, classes)

    def _joined(self, classes: tf.Tensor) -> tf.Tensor:
        """Returns the label that stands for each label, int32 [k]: of stuff, the first of its category."""
        known = tf.maximum(classes, 0)
        is_stuff = (classes >= 0) & tf.gather(tf.constant(self._is_stuff), known)
        count = tf.size(classes)
        of_stuff = tf.where(is_stuff, tf.range(count), count)
        first = tf.math.unsorted_segment_min(of_stuff, known, len(self._is_stuff))
        return tf.where(is_stuff, tf.gather(first, known), tf.range(count))


def _segments(record: AnnotatedPicture | AugmentedPicture) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the label of each pixel, int32 [h, w], and the category id of each label, int32 [k].

    Raises:
        InvalidArgumentError: when run, for a record with semantic classes alone.
    """
    labels = _decoded(record.labels)

    def own() -> tuple[tf.Tensor, tf.Tensor]:
        return labels, record.label_ids

    def by_instance() -> tuple[tf.Tensor, tf.Tensor]:
        instances = _decoded(record.instances)
        span = tf.reduce_max(instances) + 1
        keys = tf.reshape(labels * span + instances, [-1])
        different, places = tf.unique(keys)
        return tf.reshape(places, tf.shape(labels)), tf.gather(record.label_ids, different // span)

    check = tf.debugging.Assert(tf.reduce_all(record.label_ids >= 0), ["the record has no panoptic masks"])
    with tf.control_dependencies([check]):
        return tf.cond(tf.strings.length(record.instances) > 0, by_instance, own)


def _decoded(png: tf.Tensor) -> tf.Tensor:
    """Decodes a greyscale PNG of 8 or 16 bits to int32 [h, w]."""
    return tf.cond(
        has_wide_labels(png),
        lambda: decode_label_png(png, wide=True),
        lambda: tf.cast(decode_label_png(png, wide=False), tf.int32),
    )
