"""Training targets of the region proposal head: which anchors stand for which ground truth."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from panoptic_cli.config.panoptic_fpn import PanopticFPNTargetSettings
from panoptic_cli.models.panoptic_fpn import boxes as box_ops

POSITIVE, NEGATIVE, IGNORED = 1, 0, -1
_SLACK = 1e-3  # how far below a threshold a pair may seem to lie before its overlap is not computed exactly


class _Grid(NamedTuple):
    """The anchors as rows and columns: those of one shape have their sides in common.

    A shape is one of the anchors of a place of one level: s in all, of h x w places at most.

    Attributes:
        rows: float32 [s, h, 2], (y1, y2) of each row of places; empty intervals behind the level's last.
        columns: float32 [s, w, 2], (x1, x2).
        areas: float32 [s].
        first: int32 [s, h], place of a row's first anchor among all; `per_place` lie between two of a row.
        per_place: anchors of a place.
        number: anchors in all.
    """

    rows: np.ndarray
    columns: np.ndarray
    areas: np.ndarray
    first: np.ndarray
    per_place: int
    number: int


def _grid(anchors: dict[int, np.ndarray]) -> _Grid:
    levels = [boxes for _, boxes in sorted(anchors.items())]
    per_place = levels[0].shape[2]
    most_rows, most_columns = (max(boxes.shape[axis] for boxes in levels) for axis in (0, 1))
    rows = np.full((len(levels), per_place, most_rows, 2), (0.0, -1.0), np.float32)
    columns = np.full((len(levels), per_place, most_columns, 2), (0.0, -1.0), np.float32)
    first = np.zeros((len(levels), per_place, most_rows), np.int32)
    start = 0
    for level, boxes in enumerate(levels):
        height, width = boxes.shape[:2]
        rows[level, :, :height] = boxes[:, 0, :, 0::2].swapaxes(0, 1)
        columns[level, :, :width] = boxes[0, :, :, 1::2].swapaxes(0, 1)
        first[level, :, :height] = start + np.arange(per_place)[:, None] + np.arange(height) * width * per_place
        start += height * width * per_place
    areas = np.prod([side[:, :, 0, 1] - side[:, :, 0, 0] for side in (rows, columns)], axis=0)
    return _Grid(
        rows.reshape(-1, most_rows, 2),
        columns.reshape(-1, most_columns, 2),
        areas.reshape(-1).astype(np.float32),
        first.reshape(-1, most_rows),
        per_place,
        start,
    )


def _overlap(low: tf.Tensor, high: tf.Tensor, others_low: tf.Tensor, others_high: tf.Tensor) -> tf.Tensor:
    return tf.maximum(tf.minimum(high, others_high) - tf.maximum(low, others_low), 0.0)


def _close_pairs(grid: _Grid, gt_boxes: tf.Tensor, threshold: float) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Finds the pairs whose overlap can matter: about a thousand of the millions of a picture.

    Args:
        grid: the anchors.
        gt_boxes: float32 [m, 4].
        threshold: overlaps below it do not matter, but for the best of each box.

    Returns:
        int32 [p] anchors, int32 [p] boxes and float32 [p] their intersection over union.
    """
    y1, x1, y2, x2 = tf.unstack(gt_boxes, axis=-1)
    height = _overlap(grid.rows[..., 0], grid.rows[..., 1], y1[:, None, None], y2[:, None, None])  # [m, s, h]
    width = _overlap(grid.columns[..., 0], grid.columns[..., 1], x1[:, None, None], x2[:, None, None])  # [m, s, w]

    # Among the anchors of a shape the overlap grows with the intersection, which is a height times a width.
    sizes = grid.areas + ((y2 - y1) * (x2 - x1))[:, None]  # [m, s]
    widest = tf.reduce_max(width, axis=-1)
    largest = tf.reduce_max(height, axis=-1) * widest
    best = tf.reduce_max(largest / (sizes - largest), axis=-1, keepdims=True)
    limit = tf.minimum(best, threshold) * (1.0 - _SLACK)
    needed = limit / (1.0 + limit) * sizes  # the smallest intersection of that overlap

    # First the rows of places that can reach it, then the places of these rows.
    reach = height * widest[..., None]
    of_row = tf.where((reach >= needed[..., None]) & (reach > 0.0))
    box_and_shape = of_row[:, :2]
    row_height = tf.gather_nd(height, of_row)[:, None]
    intersection = row_height * tf.gather_nd(width, box_and_shape)
    of_place = tf.where((intersection >= tf.gather_nd(needed, box_and_shape)[:, None]) & (intersection > 0.0))

    intersection = tf.gather_nd(intersection, of_place)
    box, shape, row = tf.unstack(tf.gather(of_row, of_place[:, 0]), axis=-1)
    column = of_place[:, 1]
    low, high = tf.unstack(tf.gather_nd(grid.rows, tf.stack([shape, row], axis=-1)), axis=-1)
    left, right = tf.unstack(tf.gather_nd(grid.columns, tf.stack([shape, column], axis=-1)), axis=-1)
    union = (high - low) * (right - left) + tf.gather((y2 - y1) * (x2 - x1), box) - intersection
    first = tf.gather_nd(grid.first, tf.stack([shape, row], axis=-1))
    return first + tf.cast(column, tf.int32) * grid.per_place, tf.cast(box, tf.int32), intersection / union


def match_anchors(
    anchors: dict[int, np.ndarray], gt_boxes: tf.Tensor, match_threshold: float, unmatched_threshold: float
) -> tuple[tf.Tensor, tf.Tensor]:
    """Matches anchors to ground truth (arXiv 1506.01497, section 3.1.2).

    Positive: IoU of at least `match_threshold` with a box, or the best anchor of a box whatever its IoU (the first
    of equals; of boxes that share it, the first). Negative: best IoU below `unmatched_threshold`.

    Args:
        anchors: {level: float32 [h, w, a, 4]}, those of `anchor_boxes`.
        gt_boxes: float32 [m, 4], m may be 0.
        match_threshold: see above.
        unmatched_threshold: see above.

    Returns:
        int32 [n] labels (1, 0, -1) and int32 [n] index of the matched box (0 where not positive), n anchors in the
        order of levels, rows, columns, anchors of a place.
    """
    grid = _grid(anchors)
    count, boxes = grid.number, tf.shape(gt_boxes)[0]

    def match() -> tuple[tf.Tensor, tf.Tensor]:
        anchor, box, overlap = _close_pairs(grid, gt_boxes, min(match_threshold, unmatched_threshold))
        best = tf.maximum(tf.math.unsorted_segment_max(overlap, anchor, count), 0.0)
        first_box = tf.math.unsorted_segment_min(
            tf.where(overlap == tf.gather(best, anchor), box, boxes), anchor, count
        )
        labels = tf.where(best >= match_threshold, POSITIVE, tf.where(best < unmatched_threshold, NEGATIVE, IGNORED))
        best_of_box = tf.math.unsorted_segment_max(overlap, box, boxes)
        forced = tf.math.unsorted_segment_min(
            tf.where(overlap == tf.gather(best_of_box, box), anchor, count), box, boxes
        )
        forced = tf.where(forced < count, forced, 0)  # a box that meets no anchor: all are equally good
        # The minimum over the boxes that force an anchor: the first of them wins.
        forced_box = tf.math.unsorted_segment_min(tf.range(boxes), forced, count)
        is_forced = forced_box < boxes
        labels = tf.where(is_forced, POSITIVE, labels)
        matched = tf.where(is_forced, forced_box, first_box)
        return labels, tf.where(labels == POSITIVE, matched, 0)

    def nothing() -> tuple[tf.Tensor, tf.Tensor]:
        return tf.fill([count], NEGATIVE), tf.zeros([count], tf.int32)

    return tf.cond(boxes > 0, match, nothing)


def subsample_labels(labels: tf.Tensor, num_samples: int, positive_fraction: float, seed: tf.Tensor) -> tf.Tensor:
    """Keeps a random part of the labels and ignores the rest.

    Args:
        labels: int32 [n]: 1, 0 or -1.
        num_samples: how many to keep at most.
        positive_fraction: at most this part of them positive.
        seed: int32 [2].

    Returns:
        int32 [n].
    """
    # One random key for every anchor; the smallest keys of a kind are kept, which is a draw without replacement.
    keys = tf.random.stateless_uniform(tf.shape(labels), seed)

    def draw(kind: int, most: tf.Tensor) -> tf.Tensor:
        candidates = labels == kind
        number = tf.minimum(most, tf.math.count_nonzero(candidates, dtype=tf.int32))
        return tf.math.top_k(tf.where(candidates, -keys, -2.0), number).indices

    positives = draw(POSITIVE, tf.constant(int(num_samples * positive_fraction)))
    negatives = draw(NEGATIVE, num_samples - tf.size(positives))
    kept = tf.concat([positives, negatives], axis=0)
    values = tf.concat([tf.ones_like(positives), tf.zeros_like(negatives)], axis=0)
    ignored = tf.fill(tf.shape(labels), IGNORED)
    return tf.tensor_scatter_nd_update(ignored, kept[:, None], tf.cast(values, tf.int32))


def anchor_targets(
    anchors: dict[int, np.ndarray],
    gt_boxes: tf.Tensor,
    config: PanopticFPNTargetSettings,
    seed: tf.Tensor,
) -> tuple[dict[int, tf.Tensor], dict[int, tf.Tensor]]:
    """Training targets of the region proposal head.

    Args:
        anchors: {level: float32 [h, w, a, 4]}.
        gt_boxes: float32 [m, 4].
        config: thresholds and sample sizes.
        seed: int32 [2] of the sampling.

    Returns:
        Score targets {level: int32 [h, w, a]} (1, 0; -1 ignored) and box targets {level: float32 [h, w, a * 4]},
        zero where not positive.
    """
    flat = tf.constant(np.concatenate([boxes.reshape(-1, 4) for _, boxes in sorted(anchors.items())]))
    labels, matched = match_anchors(anchors, gt_boxes, config.rpn_match_threshold, config.rpn_unmatched_threshold)
    # Only positives have a box target, so only they are encoded and written into zeros.
    positives = tf.where(labels == POSITIVE)
    encoded = box_ops.encode(tf.gather(gt_boxes, tf.gather_nd(matched, positives)), tf.gather_nd(flat, positives))
    boxes = tf.scatter_nd(positives, encoded, tf.cast(tf.shape(flat), tf.int64))
    labels = subsample_labels(labels, config.rpn_batch_size_per_im, config.rpn_fg_fraction, seed)
    scores_by_level, boxes_by_level, start = {}, {}, 0
    for level, level_anchors in sorted(anchors.items()):
        height, width, per_place, _ = level_anchors.shape
        end = start + height * width * per_place
        scores_by_level[level] = tf.reshape(labels[start:end], [height, width, per_place])
        boxes_by_level[level] = tf.reshape(boxes[start:end], [height, width, per_place * 4])
        start = end
    return scores_by_level, boxes_by_level
