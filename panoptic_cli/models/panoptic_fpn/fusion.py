"""The fusion of things and stuff into one panoptic map (arXiv 1801.00868, section 4; the reference's rules).

Detections are placed in order of descending score. One that is at least half covered by better ones is dropped. Stuff
fills the remaining pixels if its class covers enough of the whole picture. All other pixels are void.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from panoptic_cli.categories import ANY_THING
from panoptic_cli.config.panoptic_fpn import PanopticSegmentationGenerator
from panoptic_cli.models.panoptic_fpn.label_space import THING_CLASS, VOID_CLASS, LabelSpace
from panoptic_cli.models.panoptic_fpn.masks import mask_runs, paste, source_positions
from panoptic_cli.models.segments import Segments, number_segments
from panoptic_cli.pipeline.preprocessing import Geometry

_PIXELS_AT_ONCE = 1 << 15  # whose class scores are interpolated: 15 MB for 111 classes


class FusedMaps(NamedTuple):
    """One fused picture.

    Attributes:
        category: int32 [height, width], category ids; 0 for void.
        instance: int32 [height, width], 1-based index of the detection; 0 for stuff and void.
        semantic: int32 [height, width], classes of the semantic head alone.
    """

    category: tf.Tensor
    instance: tf.Tensor
    semantic: tf.Tensor


def place_things(
    boxes: tf.Tensor,
    scores: tf.Tensor,
    masks: tf.Tensor,
    height: tf.Tensor,
    width: tf.Tensor,
    config: PanopticSegmentationGenerator,
    score_threshold: tf.Tensor | float | None = None,
) -> tf.Tensor:
    """Places the detections' masks in order of descending score.

    Args:
        boxes: float32 [n, 4] in pixels of the picture.
        scores: float32 [n]; detections at or below the threshold are not placed.
        masks: float32 [n, m, m], probabilities within the box.
        height: int32 scalar.
        width: int32 scalar.
        config: thresholds.
        score_threshold: used instead of the configured one.

    Returns:
        int32 [height, width], the 1-based index of the detection that each pixel belongs to; 0 for none.
    """
    threshold = config.score_threshold if score_threshold is None else score_threshold
    order = tf.argsort(scores, direction="DESCENDING", stable=True)
    count = tf.reduce_sum(tf.cast(scores > threshold, tf.int32))
    first = tf.clip_by_value(tf.math.ceil(boxes), 0.0, tf.cast(tf.stack([height, width] * 2), tf.float32))
    windows = tf.cast(first, tf.int32)  # a pixel y belongs to a box with y1 <= y < y2

    def place(i: tf.Tensor, owner: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        index = order[i]
        window = windows[index]
        inside = paste(masks[index], boxes[index], window) > config.mask_binarize_threshold
        free = inside & (owner[window[0] : window[2], window[1] : window[3]] == 0)
        area = tf.math.count_nonzero(inside, dtype=tf.int32)
        overlap = area - tf.math.count_nonzero(free, dtype=tf.int32)
        covered = tf.math.divide_no_nan(tf.cast(overlap, tf.float32), tf.cast(area, tf.float32))
        placed = free & (covered < config.things_overlap_threshold)
        padding = [[window[0], height - window[2]], [window[1], width - window[3]]]
        # These pixels were 0 before, so adding sets them.
        return i + 1, owner + tf.pad(tf.cast(placed, tf.int32) * (index + 1), padding)

    _, owner = tf.while_loop(
        lambda i, _: i < count,
        place,
        (tf.constant(0), tf.zeros([height, width], tf.int32)),
        shape_invariants=(tf.TensorShape([]), tf.TensorShape([None, None])),
    )
    return owner


def semantic_labels(
    logits: tf.Tensor, resized_height: tf.Tensor, resized_width: tf.Tensor, height: tf.Tensor, width: tf.Tensor
) -> tf.Tensor:
    """Computes the class of each pixel: the argmax of the logits, resized bilinearly and cropped to the picture.

    The result is exact, although most of it is not interpolated: if the four neighbouring cells agree on the best
    class, every weighted mean of them has the same best class.

    Args:
        logits: float32 [h, w, classes].
        resized_height: int32 scalar, the height that the logits are resized to, at least `height`.
        resized_width: int32 scalar, likewise.
        height: int32 scalar, the height of the picture.
        width: int32 scalar, likewise.

    Returns:
        int32 [height, width].
    """
    cells_y, cells_x, classes = tf.shape(logits)[0], tf.shape(logits)[1], tf.shape(logits)[2]
    zero = tf.constant(0.0)
    y, weight_y = source_positions(zero, tf.cast(resized_height, tf.float32), cells_y, 0, height)
    x, weight_x = source_positions(zero, tf.cast(resized_width, tf.float32), cells_x, 0, width)

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
    geometry: Geometry,
    config: PanopticSegmentationGenerator,
    label_space: LabelSpace,
    score_threshold: tf.Tensor | float | None = None,
) -> FusedMaps:
    """Fuses the network's outputs for one picture at the picture's own size.

    Args:
        outputs: the outputs of `PanopticFPN.call`, without the batch dimension: detection_boxes float32 [n, 4] in
            pixels of the network's input, detection_classes int32 [n] (0 means none), detection_scores
            float32 [n], detection_masks float32 [n, m, m], semantic_logits float32 [h, w, c].
        geometry: the geometry of the picture.
        config: thresholds.
        label_space: maps classes to category ids; pixels of a class without a category become void.
        score_threshold: used instead of the configured one.

    Returns:
        The maps at the original size.
    """
    size = tf.cast(geometry.original_size, tf.int32)
    height, width = size[0], size[1]
    classes = outputs["detection_classes"]
    scores = tf.where(classes > 0, outputs["detection_scores"], 0.0)
    boxes = outputs["detection_boxes"] / tf.tile(geometry.scale, [2])
    owner = place_things(boxes, scores, outputs["detection_masks"], height, width, config, score_threshold)

    resized = tf.cast(tf.math.ceil(geometry.input_size / geometry.scale), tf.int32)
    labels = semantic_labels(outputs["semantic_logits"], resized[0], resized[1], height, width)
    num_classes = label_space.num_semantic_classes
    areas = tf.math.bincount(tf.reshape(labels, [-1]), minlength=num_classes, maxlength=num_classes)
    is_stuff = (tf.range(num_classes) != VOID_CLASS) & (tf.range(num_classes) != THING_CLASS)
    kept = is_stuff & (tf.cast(areas, tf.float32) > config.stuff_area_threshold)
    stuff_ids = tf.where(kept, tf.constant(label_space.stuff_id_of_class, tf.int32), 0)

    thing_ids = tf.gather(tf.constant(label_space.thing_id_of_class, tf.int32), classes)
    id_of_owner = tf.concat([[0], thing_ids], axis=0)
    category = tf.where(owner > 0, tf.gather(id_of_owner, owner), tf.gather(stuff_ids, labels))
    return FusedMaps(category, tf.where(category > 0, owner, 0), labels)


def finish(
    outputs: Mapping[str, tf.Tensor],
    geometry: Geometry,
    config: PanopticSegmentationGenerator,
    label_space: LabelSpace,
    score_threshold: tf.Tensor | float | None = None,
) -> Segments:
    """Fuses one picture, numbers its segments and encodes its masks. The arguments are those of `fuse`."""
    maps = fuse(outputs, geometry, config, label_space, score_threshold)
    ids = tf.gather(tf.constant(label_space.thing_id_of_class, tf.int32), outputs["detection_classes"])
    listed = tf.where(ids > 0)[:, 0]  # without padding and without classes that have no category
    place_of = tf.concat([[0], tf.cumsum(tf.cast(ids > 0, tf.int32))], axis=0)
    boxes = tf.gather(outputs["detection_boxes"], listed) / tf.tile(geometry.scale, [2])
    category_ids = tf.gather(ids, listed)
    stuff = [category.id for category in label_space.table.stuff]
    segment_map, segment_ids, detections, areas = number_segments(
        maps.category, tf.gather(place_of, maps.instance), category_ids, stuff
    )
    size = tf.cast(geometry.original_size, tf.int32)
    masks = tf.gather(outputs["detection_masks"], listed)
    return Segments(
        segment_map=segment_map,
        category_ids=segment_ids,
        detection_of_segment=detections,
        areas=areas,
        boxes=boxes,
        scores=tf.gather(outputs["detection_scores"], listed),
        detection_category_ids=category_ids,
        masks=mask_runs(masks, boxes, size[0], size[1], config.mask_binarize_threshold),
        semantic_map=tf.gather(tf.constant(_semantic_ids(label_space), tf.int32), maps.semantic),
    )


def _semantic_ids(label_space: LabelSpace) -> np.ndarray:
    ids = label_space.stuff_id_of_class.copy()
    ids[THING_CLASS] = ANY_THING
    return ids
