"""From one record to one training example: parse, augment, compute the targets."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from panoptic_cli.categories import LabelSpace
from panoptic_cli.config.schema import Model, Parser
from panoptic_cli.models.panoptic_fpn.anchor_targets import anchor_targets
from panoptic_cli.models.panoptic_fpn.anchors import anchor_boxes
from panoptic_cli.pipeline.parsing import decode_label_png, has_wide_labels, parse_record
from panoptic_cli.pipeline.preprocessing import plan_resizing, resize_image, resize_labels

# Streams of random numbers of one picture, told apart by the last part of their seed.
_FLIP, _SCALE, _OFFSET, _ANCHORS = range(4)


def training_example(
    serialized: tf.Tensor,
    seed: tf.Tensor,
    model: Model,
    parser: Parser,
    label_space: LabelSpace,
    ignore_label: int,
    anchors: dict[int, np.ndarray] | None = None,
    subsample: bool = True,
) -> dict[str, tf.Tensor | dict[str, tf.Tensor]]:
    """Makes one training example: parse, flip, jitter the scale, crop, pad, and compute the targets.

    Args:
        serialized: string scalar, one record.
        seed: int64 [2], this picture's; the same seed gives the same example.
        model: sizes, levels and anchors.
        parser: augmentation and target settings.
        label_space: classes.
        ignore_label: semantic label of padding.
        anchors: those of `anchor_boxes`, to compute them once.
        subsample: False keeps every anchor's label.

    Returns:
        images float32 [height, width, 3], normalised; image_info float32 [4, 2];
        gt_boxes float32 [m, 4] in pixels of the input and gt_classes int32 [m], both padded with -1;
        gt_masks uint8 [m, s, s] in 0..255, each cropped to its box;
        semantic_labels int32 [height, width];
        rpn_scores and rpn_boxes by level (names are strings), see `anchor_targets`.
    """
    height, width = model.input_size[:2]
    if anchors is None:
        anchors = anchor_boxes(model.anchor, (height, width), model.min_level, model.max_level)
    seed = tf.cast(seed, tf.int32)

    def stream(number: int) -> tf.Tensor:
        return seed + tf.constant([0, number], tf.int32) * 1_000_003

    record = parse_record(serialized, label_space)
    image, boxes = record["image"], record["boxes"]
    wanted = record["classes"] > 0
    if parser.skip_crowd_during_training:
        wanted &= ~record["is_crowd"]
    boxes = tf.boolean_mask(boxes, wanted)
    classes = tf.boolean_mask(record["classes"], wanted)
    mask_pngs = tf.boolean_mask(record["masks"], wanted)

    mirrored = tf.constant(False)
    if parser.aug_rand_hflip:
        # Only the picture is mirrored as a whole; labels and masks are read from the other side.
        mirrored = tf.random.stateless_uniform([], stream(_FLIP)) < 0.5
        image = tf.cond(mirrored, lambda: tf.reverse(image, [1]), lambda: image)
        boxes = tf.where(mirrored, _mirror(boxes), boxes)

    random_scale = random_offset = None
    if parser.aug_scale_min != 1.0 or parser.aug_scale_max != 1.0:
        random_scale = tf.random.stateless_uniform([], stream(_SCALE), parser.aug_scale_min, parser.aug_scale_max)
        random_offset = tf.random.stateless_uniform([2], stream(_OFFSET))
    size = tf.shape(image)[:2]
    resizing = plan_resizing(size, (height, width), random_scale, random_offset)

    # From fractions to pixels of the input, clipped to it; what falls outside altogether is dropped.
    original = tf.tile(tf.cast(size, tf.float32), [2])
    scale = tf.tile(resizing.scale, [2])
    offset = tf.tile(tf.cast(resizing.offset, tf.float32), [2])
    boxes = tf.clip_by_value(boxes * original * scale - offset, 0.0, tf.constant([height, width] * 2, tf.float32))
    kept = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    boxes, classes = tf.boolean_mask(boxes, kept), tf.boolean_mask(classes, kept)
    mask_pngs = tf.boolean_mask(mask_pngs, kept)

    rpn_scores, rpn_boxes = anchor_targets(anchors, boxes, parser, stream(_ANCHORS) if subsample else None)

    most, crop = parser.max_num_instances, parser.mask_crop_size
    boxes, classes, mask_pngs = boxes[:most], classes[:most], mask_pngs[:most]
    in_picture = (boxes + offset) / scale / original
    masks = _crop_masks(mask_pngs, tf.where(mirrored, _mirror(in_picture), in_picture), mirrored, crop)
    padding = most - tf.shape(boxes)[0]

    def semantic_labels(wide: bool) -> tf.Tensor:
        labels = decode_label_png(record["labels"], wide)
        return resize_labels(labels, resizing, (height, width), ignore_label, record["label_classes"], mirrored)

    return {
        "images": resize_image(image, resizing, (height, width)),
        "image_info": resizing.image_info,
        "gt_boxes": tf.ensure_shape(tf.pad(boxes, [[0, padding], [0, 0]], constant_values=-1.0), [most, 4]),
        "gt_classes": tf.ensure_shape(tf.pad(classes, [[0, padding]], constant_values=-1), [most]),
        "gt_masks": tf.ensure_shape(tf.pad(masks, [[0, padding], [0, 0], [0, 0]]), [most, crop, crop]),
        "semantic_labels": tf.cond(
            has_wide_labels(record["labels"]), lambda: semantic_labels(True), lambda: semantic_labels(False)
        ),
        "rpn_scores": {str(level): target for level, target in rpn_scores.items()},
        "rpn_boxes": {str(level): target for level, target in rpn_boxes.items()},
    }


def _mirror(boxes: tf.Tensor) -> tf.Tensor:
    """Boxes (y1, x1, y2, x2) in fractions of the picture, [n, 4], in the picture mirrored from left to right."""
    return tf.stack([boxes[:, 0], 1.0 - boxes[:, 3], boxes[:, 2], 1.0 - boxes[:, 1]], axis=-1)


def _crop_masks(pngs: tf.Tensor, boxes: tf.Tensor, mirrored: tf.Tensor, size: int) -> tf.Tensor:
    """Crops each mask to its box, one at a time: a stack of whole masks would be a hundred times as large.

    Args:
        pngs: string [n].
        boxes: float32 [n, 4], fractions of the picture as the PNGs show it.
        mirrored: bool scalar, whether to mirror the crops from left to right.
        size: side of the crops.

    Returns:
        uint8 [n, size, size]: 255 inside, 0 outside, between at the edges.
    """
    # A box whose right side comes first is sampled from right to left.
    boxes = tf.where(mirrored, tf.gather(boxes, [0, 3, 2, 1], axis=1), boxes)

    def crop(item: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        png, box = item
        mask = tf.io.decode_png(png, channels=1)
        return tf.image.crop_and_resize(mask[None], box[None], [0], [size, size])[0, ..., 0]

    crops = tf.map_fn(crop, (pngs, boxes), fn_output_signature=tf.TensorSpec([size, size], tf.float32))
    return tf.cast(tf.round(tf.minimum(crops, 1.0) * 255.0), tf.uint8)
