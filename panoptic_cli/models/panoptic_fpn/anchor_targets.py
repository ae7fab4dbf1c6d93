"""Training targets of the region proposal head: the assignment of anchors to ground-truth boxes."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from panoptic_cli.config.panoptic_fpn import PanopticFPNTargetSettings
from panoptic_cli.models.panoptic_fpn import boxes as box_ops

POSITIVE, NEGATIVE, IGNORED = 1, 0, -1
_SLACK = 1e-3  # relative margin below a threshold within which overlaps are still computed exactly


class _Grid(NamedTuple):
    """The anchors as rows and columns: those of one shape share their intervals.

    A shape is one of the anchors per location of one level. There are s shapes with at most h x w locations each.

    Attributes:
        rows: float32 [s, h, 2], (y1, y2) of each row of locations; empty intervals after the level's last row.
        columns: float32 [s, w, 2], (x1, x2), likewise.
        areas: float32 [s].
        first: int32 [s, h], index of each row's first anchor among all anchors; the next one of the row is `per_place`
            further on.
        per_place: number of anchors per location.
        number: total number of anchors.
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
    """Finds the pairs whose overlap can matter: about a thousand of the millions in a picture.

    Args:
        grid: the anchors.
        gt_boxes: float32 [m, 4].
        threshold: overlaps below it do not matter, except the best of each box.

    Returns:
        Indices int32 [p] of the anchors and of the boxes, and their intersection over union, float32 [p].
    """
    y1, x1, y2, x2 = tf.unstack(gt_boxes, axis=-1)
    height = _overlap(grid.rows[..., 0], grid.rows[..., 1], y1[:, None, None], y2[:, None, None])  # [m, s, h]
    width = _overlap(grid.columns[..., 0], grid.columns[..., 1], x1[:, None, None], x2[:, None, None])  # [m, s, w]

    # Among the anchors of one shape, the overlap grows with the intersection, which is a height times a width.
    sizes = grid.areas + ((y2 - y1) * (x2 - x1))[:, None]  # [m, s]
    widest = tf.reduce_max(width, axis=-1)
    largest = tf.reduce_max(height, axis=-1) * widest
    best = tf.reduce_max(largest / (sizes - largest), axis=-1, keepdims=True)
    limit = tf.minimum(best, threshold) * (1.0 - _SLACK)
    needed = limit / (1.0 + limit) * sizes  # the smallest intersection with that overlap

    # First find the rows that can reach it, then the locations in these rows.
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

    An anchor is positive if its IoU with a box is at least `match_threshold`, or if it is the best anchor of a box,
    whatever its IoU. Of equally good anchors, the first is the best. An anchor that is the best of several boxes goes
    to the first of them. An anchor is negative if its best IoU is below `unmatched_threshold`.

    Args:
        anchors: {level: float32 [h, w, a, 4]}, as `anchor_boxes` returns them.
        gt_boxes: float32 [m, 4]; m may be 0.
        match_threshold: see above.
        unmatched_threshold: see above.

    Returns:
        Labels int32 [n] (1, 0 or -1) and indices int32 [n] of the matched boxes (0 unless positive), for the n anchors
        ordered by level, row, column and anchor of a location.
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
        forced = tf.where(forced < count, forced, 0)  # for a box without overlap, all anchors are equally good
        # If several boxes force an anchor, the first of them wins.
        forced_box = tf.math.unsorted_segment_min(tf.range(boxes), forced, count)
        is_forced = forced_box < boxes
        labels = tf.where(is_forced, POSITIVE, labels)
        matched = tf.where(is_forced, forced_box, first_box)
        return labels, tf.where(labels == POSITIVE, matched, 0)

    def nothing() -> tuple[tf.Tensor, tf.Tensor]:
        return tf.fill([count], NEGATIVE), tf.zeros([count], tf.int32)

    return tf.cond(boxes > 0, match, nothing)


def subsample_labels(labels: tf.Tensor, num_samples: int, positive_fraction: float, seed: tf.Tensor) -> tf.Tensor:
    """Keeps a random sample of the labels and marks the others as ignored.

    Args:
        labels: int32 [n], 1, 0 or -1.
        num_samples: the maximum number of labels to keep.
        positive_fraction: the maximum fraction of positives among them.
        seed: int32 [2].

    Returns:
        The new labels, int32 [n].
    """
    # Every anchor gets a random key. Keeping the smallest keys of a kind is a draw without replacement.
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
    """Computes the training targets of the region proposal head.

    Args:
        anchors: {level: float32 [h, w, a, 4]}.
        gt_boxes: float32 [m, 4].
        config: thresholds and sample sizes.
        seed: int32 [2], the seed of the sampling.

    Returns:
        Score targets {level: int32 [h, w, a]} (1 or 0; -1 is ignored) and box targets
        {level: float32 [h, w, a * 4]}, zero unless positive.
    """
    flat = tf.constant(np.concatenate([boxes.reshape(-1, 4) for _, boxes in sorted(anchors.items())]))
    labels, matched = match_anchors(anchors, gt_boxes, config.rpn_match_threshold, config.rpn_unmatched_threshold)
    # Only positive anchors have a box target: encode these and leave the others at zero.
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
