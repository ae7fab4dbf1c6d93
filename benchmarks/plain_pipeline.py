"""A plain input pipeline for training, to compare the package's own with."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from panoptic_cli.categories import CategoryTable
from panoptic_cli.config.schema import Experiment, Parser
from panoptic_cli.models.panoptic_fpn import boxes as box_ops
from panoptic_cli.models.panoptic_fpn.anchors import anchor_boxes
from panoptic_cli.models.panoptic_fpn.label_space import label_space_of
from panoptic_cli.pipeline.parsing import decode_label_png, look_up, parse_record
from panoptic_cli.pipeline.preprocessing import Preprocessing, Resizing
from panoptic_cli.records.files import find_record_files


def plain_dataset(experiment: Experiment, table: CategoryTable, batch_size: int) -> tf.data.Dataset:
    """Makes batches as `training_dataset` does, with whole masks in float32, and overlaps of all anchors and boxes."""
    model, parser = experiment.task.model, experiment.task.train_data.parser
    space = label_space_of(experiment, table)
    height, width = model.input_size[:2]
    preprocessing = Preprocessing((height, width))
    anchors = anchor_boxes(model.anchor, (height, width), model.min_level, model.max_level)
    flat = np.concatenate([boxes.reshape(-1, 4) for boxes in anchors.values()])

    def resize(values: tf.Tensor, resizing: Resizing, method: str) -> tf.Tensor:
        values = tf.image.resize(values, resizing.scaled_size, method=method)
        top, left = resizing.offset[0], resizing.offset[1]
        return values[..., top : top + height, left : left + width, :]

    def pad(values: tf.Tensor, value: int = 0) -> tf.Tensor:
        shape = tf.shape(values)
        return tf.pad(values, [[0, height - shape[0]], [0, width - shape[1]], [0, 0]], constant_values=value)

    def make(serialized: tf.Tensor) -> dict[str, tf.Tensor]:
        record = parse_record(serialized, preprocessing)
        image, classes = record.image, look_up(space.thing_class_of_id, record.category_ids)
        label_classes = look_up(space.semantic_class_of_id, record.label_ids)
        semantic = tf.gather(label_classes, tf.cast(decode_label_png(record.labels, wide=False), tf.int32))[..., None]
        real = (classes > 0) & ~record.is_crowd
        boxes, classes = record.boxes[real], classes[real]
        size = tf.shape(image)[:2]
        masks = tf.zeros([0, size[0], size[1], 1])
        if tf.reduce_any(real):
            masks = tf.map_fn(
                lambda png: tf.cast(tf.io.decode_png(png, channels=1), tf.float32),
                record.masks[real],
                fn_output_signature=tf.TensorSpec([None, None, 1], tf.float32),
            )
        if tf.random.uniform([]) < 0.5:
            image, semantic, masks = image[:, ::-1], semantic[:, ::-1], masks[:, :, ::-1]
            boxes = tf.stack([boxes[:, 0], 1 - boxes[:, 3], boxes[:, 2], 1 - boxes[:, 1]], axis=-1)
        scale = tf.random.uniform([], parser.aug_scale_min, parser.aug_scale_max)
        resizing = preprocessing.plan(size, scale, tf.random.uniform([2]))
        images = resize(image, resizing, "bilinear")
        images = pad((images / 255 - tf.constant(preprocessing.mean)) / tf.constant(preprocessing.stddev))
        semantic = pad(resize(semantic, resizing, "nearest"), 255)

        pixels = boxes * tf.tile(tf.cast(size, tf.float32) * resizing.geometry.scale, [2])
        boxes = tf.clip_by_value(pixels - tf.tile(tf.cast(resizing.offset, tf.float32), [2]), 0.0, float(height))
        masks = tf.cond(
            tf.shape(boxes)[0] > 0,
            lambda: resize(masks, resizing, "nearest"),
            lambda: tf.zeros([0, height, width, 1]),
        )
        kept = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
        boxes, classes, masks = boxes[kept], classes[kept], masks[kept]
        number = tf.shape(boxes)[0]
        inside = boxes / tf.tile(tf.cast(tf.maximum(tf.shape(masks)[1:3], 1), tf.float32), [2])
        crop = parser.mask_crop_size
        crops = tf.image.crop_and_resize(masks, inside, tf.range(number), [crop, crop])[..., 0]
        scores, encoded = _anchors(tf.constant(flat), boxes, parser)
        padding = parser.max_num_instances - number
        return {
            "images": tf.ensure_shape(images, [height, width, 3]),
            "gt_boxes": tf.pad(boxes, [[0, padding], [0, 0]], constant_values=-1.0),
            "gt_classes": tf.pad(classes, [[0, padding]], constant_values=-1),
            "gt_masks": tf.pad(crops, [[0, padding], [0, 0], [0, 0]]),
            "semantic_labels": semantic[..., 0],
            "rpn_scores": scores,
            "rpn_boxes": encoded,
        }

    dataset = tf.data.TFRecordDataset(find_record_files(experiment.task.train_data.input_path)).repeat()
    dataset = dataset.shuffle(experiment.task.train_data.shuffle_buffer_size)
    dataset = dataset.map(make, num_parallel_calls=tf.data.AUTOTUNE).batch(batch_size, drop_remainder=True)
    return dataset.prefetch(tf.data.AUTOTUNE)


def _anchors(anchors: tf.Tensor, boxes: tf.Tensor, parser: Parser) -> tuple[tf.Tensor, tf.Tensor]:
    # A box that overlaps no anchor, so that the reductions never have an empty axis.
    boxes = tf.concat([boxes, [[-2.0, -2.0, -1.0, -1.0]]], axis=0)
    overlaps = box_ops.iou(anchors, boxes)
    best = tf.reduce_max(overlaps, axis=1)
    forced = tf.reduce_any(
        tf.one_hot(tf.argmax(overlaps[:, :-1], axis=0), tf.shape(anchors)[0], on_value=True, off_value=False), axis=0
    )
    positive = forced | (best >= parser.rpn_match_threshold)
    negative = ~positive & (best < parser.rpn_unmatched_threshold)
    order = tf.argsort(tf.random.uniform(tf.shape(best)))
    shuffled = tf.gather(tf.stack([positive, negative], axis=-1), order)
    rank = tf.cumsum(tf.cast(shuffled, tf.int32), axis=0)
    most = int(parser.rpn_batch_size_per_im * parser.rpn_fg_fraction)
    drawn = tf.scatter_nd(order[:, None], tf.cast(shuffled & (rank <= most), tf.int32), tf.shape(shuffled))
    scores = tf.where(drawn[:, 0] > 0, 1, tf.where(drawn[:, 1] > 0, 0, -1))
    encoded = box_ops.encode(tf.gather(boxes, tf.argmax(overlaps, axis=1)), anchors)
    return scores, tf.where(positive[:, None], encoded, 0.0)
