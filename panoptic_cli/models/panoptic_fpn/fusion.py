"""The fusion of things and stuff into one panoptic picture (arXiv 1801.00868, section 4; rules of the reference).

Detections are placed in descending score; one that is covered by at least half by better ones is dropped; stuff
fills what is left, if its class covers enough of the whole picture; the rest is void.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import tensorflow as tf

from panoptic_cli.categories import THING_LABEL, VOID_LABEL, LabelSpace
from panoptic_cli.config.schema import PanopticSegmentationGenerator

_PIXELS_AT_ONCE = 1 << 15  # of the interpolated class scores: 15 MB at 111 classes


class PanopticMaps(NamedTuple):
    """One fused picture.

    Attributes:
        category: int32 [height, width], category ids; 0 is void.
        instance: int32 [height, width], 1-based place of the detection; 0 for stuff and void.
        semantic: int32 [height, width], classes of the semantic head alone.
    """

    category: tf.Tensor
    instance: tf.Tensor
    semantic: tf.Tensor


def _source_positions(
    start: tf.Tensor, size: tf.Tensor, cells: tf.Tensor, first: tf.Tensor, last: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Where the pixels first..last-1 of an axis fall on `cells` cells stretched over start..start+size.

    Returns:
        int32 lower neighbour (at most cells - 2, so that the upper one is lower + 1) and float32 weight of the upper.
    """
    pixels = tf.range(first, last)
    cells_float = tf.cast(cells, tf.float32)
    position = (tf.cast(pixels, tf.float32) - start + 0.5) * (cells_float / size) - 0.5
    position = tf.clip_by_value(position, 0.0, cells_float - 1.0)
    lower = tf.clip_by_value(tf.floor(position), 0.0, tf.maximum(cells_float - 2.0, 0.0))
    return tf.cast(lower, tf.int32), position - lower


def place_things(
    boxes: tf.Tensor,
    scores: tf.Tensor,
    masks: tf.Tensor,
    height: tf.Tensor,
    width: tf.Tensor,
    config: PanopticSegmentationGenerator,
) -> tf.Tensor:
    """Pastes the detections' masks in descending score.

    Args:
        boxes: float32 [n, 4] in pixels of the picture.
        scores: float32 [n]; those at or below config.score_threshold are left out.
        masks: float32 [n, m, m], probabilities within the box.
        height: int32 scalar.
        width: int32 scalar.
        config: thresholds.

    Returns:
        int32 [height, width]: 1-based place of the detection that owns a pixel, 0 where none does.
    """
    order = tf.argsort(scores, direction="DESCENDING", stable=True)
    count = tf.reduce_sum(tf.cast(scores > config.score_threshold, tf.int32))
    cells_y, cells_x = tf.shape(masks)[1], tf.shape(masks)[2]
    first = tf.clip_by_value(tf.math.ceil(boxes), 0.0, tf.cast(tf.stack([height, width] * 2), tf.float32))
    first = tf.cast(first, tf.int32)  # a pixel y belongs to a box with y1 <= y < y2

    def paste(i: tf.Tensor, owner: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        index = order[i]
        box, limits, mask = boxes[index], first[index], masks[index]
        y, weight_y = _source_positions(box[0], box[2] - box[0], cells_y, limits[0], limits[2])
        x, weight_x = _source_positions(box[1], box[3] - box[1], cells_x, limits[1], limits[3])
        weight_y, weight_x = weight_y[:, None], weight_x[None, :]
        rows0, rows1 = tf.gather(mask, y), tf.gather(mask, y + 1)
        value = (
            tf.gather(rows0, x, axis=1) * ((1.0 - weight_y) * (1.0 - weight_x))
            + tf.gather(rows0, x + 1, axis=1) * ((1.0 - weight_y) * weight_x)
            + tf.gather(rows1, x, axis=1) * (weight_y * (1.0 - weight_x))
            + tf.gather(rows1, x + 1, axis=1) * (weight_y * weight_x)
        )
        inside = value > config.mask_binarize_threshold
        window = owner[limits[0] : limits[2], limits[1] : limits[3]]
        free = inside & (window == 0)
        area = tf.math.count_nonzero(inside, dtype=tf.int32)
        overlap = area - tf.math.count_nonzero(free, dtype=tf.int32)
        covered = tf.math.divide_no_nan(tf.cast(overlap, tf.float32), tf.cast(area, tf.float32))
        placed = free & (covered < config.things_overlap_threshold)
        padding = [[limits[0], height - limits[2]], [limits[1], width - limits[3]]]
        # Pixels taken now were 0 before, so adding sets them.
        return i + 1, owner + tf.pad(tf.cast(placed, tf.int32) * (index + 1), padding)

    _, owner = tf.while_loop(
        lambda i, _: i < count,
        paste,
        (tf.constant(0), tf.zeros([height, width], tf.int32)),
        shape_invariants=(tf.TensorShape([]), tf.TensorShape([None, None])),
    )
    return owner


def semantic_labels(
    logits: tf.Tensor, resized_height: tf.Tensor, resized_width: tf.Tensor, height: tf.Tensor, width: tf.Tensor
) -> tf.Tensor:
    """The class of each pixel: argmax of the logits resized bilinearly and cropped to the picture.

    Exact without computing most of it: where the four neighbouring cells agree on the best class, every mean of
    them has that best class too, so only pixels between cells that disagree are interpolated.

    Args:
        logits: float32 [h, w, classes].
        resized_height: int32 scalar, height the logits are resized to, at least `height`.
        resized_width: int32 scalar.
        height: int32 scalar, height of the picture.
        width: int32 scalar.

    Returns:
        int32 [height, width].
    """
    cells_y, cells_x, classes = tf.shape(logits)[0], tf.shape(logits)[1], tf.shape(logits)[2]
    zero = tf.constant(0.0)
    y, weight_y = _source_positions(zero, tf.cast(resized_height, tf.float32), cells_y, 0, height)
    x, weight_x = _source_positions(zero, tf.cast(resized_width, tf.float32), cells_x, 0, width)

    best = tf.argmax(logits, axis=-1, output_type=tf.int32)
    agreed = best[:-1, :-1]
    agree = (agreed == best[1:, :-1]) & (agreed == best[:-1, 1:]) & (agreed == best[1:, 1:])
    by_cell = tf.where(agree, agreed, -1)
    labels = tf.gather(tf.gather(by_cell, y), x, axis=1)

    open_pixels = tf.where(labels < 0)
    flat = tf.reshape(logits, [-1, classes])

    def interpolate(begin: tf.Tensor) -> tf.Tensor:
        pixels = open_pixels[begin : begin + _PIXELS_AT_ONCE]
        py, px = tf.gather(y, pixels[:, 0]), tf.gather(x, pixels[:, 1])
        wy, wx = tf.gather(weight_y, pixels[:, 0])[:, None], tf.gather(weight_x, pixels[:, 1])[:, None]
        corner = py * cells_x + px
        value = tf.gather(flat, corner) * ((1.0 - wy) * (1.0 - wx))
        value += tf.gather(flat, corner + 1) * ((1.0 - wy) * wx)
        value += tf.gather(flat, corner + cells_x) * (wy * (1.0 - wx))
        value += tf.gather(flat, corner + cells_x + 1) * (wy * wx)
        return tf.argmax(value, axis=-1, output_type=tf.int32)

    def step(begin: tf.Tensor, done: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        pixels = open_pixels[begin : begin + _PIXELS_AT_ONCE]
        return begin + _PIXELS_AT_ONCE, tf.tensor_scatter_nd_update(done, pixels, interpolate(begin))

    _, labels = tf.while_loop(
        lambda begin, _: begin < tf.shape(open_pixels)[0],
        step,
        (tf.constant(0), labels),
        shape_invariants=(tf.TensorShape([]), tf.TensorShape([None, None])),
    )
    return labels


def fuse(
    outputs: Mapping[str, tf.Tensor],
    image_info: tf.Tensor,
    config: PanopticSegmentationGenerator,
    label_space: LabelSpace,
) -> PanopticMaps:
    """Fuses the network's outputs for one picture at the picture's own size.

    Args:
        outputs: what `PanopticFPN.call` returns, without the batch dimension: detection_boxes float32 [n, 4] in
            pixels of the network's input, detection_classes int32 [n] (0 is no detection), detection_scores
            float32 [n], detection_masks float32 [n, m, m], semantic_logits float32 [h, w, c].
        image_info: float32 [4, 2]: original size, input size, scale, crop offset, each (y, x).
        config: thresholds.
        label_space: from classes to category ids.

    Returns:
        The maps at the original size.
    """
    original, desired, scale = image_info[0], image_info[1], image_info[2]
    height, width = tf.cast(original[0], tf.int32), tf.cast(original[1], tf.int32)
    classes = outputs["detection_classes"]
    scores = tf.where(classes > 0, outputs["detection_scores"], 0.0)
    boxes = outputs["detection_boxes"] / tf.tile(scale, [2])
    instance = place_things(boxes, scores, outputs["detection_masks"], height, width, config)

    resized = tf.cast(tf.math.ceil(desired / scale), tf.int32)
    labels = semantic_labels(outputs["semantic_logits"], resized[0], resized[1], height, width)
    num_labels = label_space.num_semantic_classes
    areas = tf.math.bincount(tf.reshape(labels, [-1]), minlength=num_labels, maxlength=num_labels)
    is_stuff = (tf.range(num_labels) != VOID_LABEL) & (tf.range(num_labels) != THING_LABEL)
    kept = is_stuff & (tf.cast(areas, tf.float32) > config.stuff_area_threshold)
    stuff_ids = tf.where(kept, tf.constant(label_space.semantic_ids, tf.int32), 0)

    thing_ids = tf.gather(tf.constant(label_space.thing_ids, tf.int32), classes)
    id_of_owner = tf.concat([[0], thing_ids], axis=0)
    category = tf.where(instance > 0, tf.gather(id_of_owner, instance), tf.gather(stuff_ids, labels))
    return PanopticMaps(category, instance, labels)
