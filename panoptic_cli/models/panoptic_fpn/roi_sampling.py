"""The proposals that a step trains the box and mask heads on, and the targets of the mask head."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from panoptic_cli.config.panoptic_fpn import ROISampler
from panoptic_cli.models.panoptic_fpn import boxes as box_ops

_MASK_MARGIN = 2  # zeros around a ground-truth mask before it is cropped, so that ROIs may extend beyond its box
_EPSILON = 1e-8


class SampledROIs(NamedTuple):
    """The proposals that a step trains the box and mask heads on, foreground first.

    Classes and indices are int64, because on a GPU TensorFlow computes with int32 on the host.

    Attributes:
        boxes: float32 [batch, k, 4].
        classes: int64 [batch, k], 0 is background.
        matched_boxes: float32 [batch, k, 4], zeros for background.
        matched_indices: int64 [batch, k], index of the matched ground truth, 0 for background.
    """

    boxes: tf.Tensor
    classes: tf.Tensor
    matched_boxes: tf.Tensor
    matched_indices: tf.Tensor


def sample_rois(
    proposals: tf.Tensor, gt_boxes: tf.Tensor, gt_classes: tf.Tensor, config: ROISampler, seed: tf.Tensor
) -> SampledROIs:
    """Matches proposals to ground truth and draws a balanced sample (arXiv 1504.08083, section 2.3).

    Args:
        proposals: float32 [batch, n, 4].
        gt_boxes: float32 [batch, m, 4], padded with -1.
        gt_classes: int32 [batch, m], padded with -1.
        config: sample size, foreground fraction and thresholds.
        seed: int32 [2], the same on every replica.

    Returns:
        num_sampled_rois ROIs per image. If there are too few candidates, padding is drawn as background.
    """
    boxes = tf.concat([proposals, gt_boxes], axis=1) if config.mix_gt_boxes else proposals
    gt_valid = tf.reduce_max(gt_boxes, axis=-1) >= 0.0
    valid = tf.reduce_max(boxes, axis=-1) >= 0.0
    overlaps = tf.where(
        valid[:, :, None] & gt_valid[:, None, :], box_ops.iou(boxes, gt_boxes), -tf.ones([], tf.float32)
    )
    best = tf.reduce_max(overlaps, axis=-1)
    matched = tf.argmax(overlaps, axis=-1)
    foreground = best >= config.foreground_iou_threshold
    # An image without ground truth has only overlaps of -1, and all its proposals are background.
    empty = ~tf.reduce_any(gt_valid, axis=-1, keepdims=True)
    background = ((best >= config.background_iou_low_threshold) & (best < config.background_iou_high_threshold)) | (
        empty & valid
    )

    # Keys: 3..4 chosen foreground, 2..3 background, 1..2 padding, 0..1 foreground beyond its fraction. The k largest
    # keys are a uniform draw within each kind, with static shapes and without a loop.
    draw = _draw(tf.shape(best), seed)
    most = int(config.num_sampled_rois * config.foreground_fraction)
    foreground_keys = tf.where(foreground, draw, -1.0)
    most = min(most, int(boxes.shape[1]))
    limit = tf.math.top_k(foreground_keys, most).values[:, -1:] if most else tf.fill([1, 1], 2.0)
    chosen = foreground & (foreground_keys >= limit)
    keys = tf.where(chosen, draw + 3.0, tf.where(background, draw + 2.0, tf.where(foreground, draw, draw + 1.0)))
    count = min(config.num_sampled_rois, int(boxes.shape[1]))
    places = tf.math.top_k(keys, count).indices

    boxes = tf.gather(boxes, places, batch_dims=1)
    matched = tf.gather(matched, places, batch_dims=1)
    is_foreground = tf.gather(foreground, places, batch_dims=1)
    matched = tf.where(is_foreground, matched, 0)
    classes = tf.cast(tf.gather(gt_classes, matched, batch_dims=1), tf.int64)
    classes = tf.where(is_foreground, classes, 0)
    matched_boxes = tf.where(is_foreground[..., None], tf.gather(gt_boxes, matched, batch_dims=1), 0.0)
    return SampledROIs(tf.stop_gradient(boxes), classes, tf.stop_gradient(matched_boxes), matched)


def _draw(shape: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Draws random numbers in [0, 1), float32 [batch, n], by the image's index in the batch of all replicas."""
    context = tf.distribute.get_replica_context()
    replicas, replica = 1, tf.constant(0)
    if context is not None:
        replicas, replica = context.num_replicas_in_sync, tf.cast(context.replica_id_in_sync_group, tf.int32)
    # The algorithm is fixed because XLA would choose another one, and thus another sample.
    numbers = tf.random.stateless_uniform([shape[0] * replicas, shape[1]], seed, alg="philox")
    return tf.slice(numbers, [replica * shape[0], 0], shape)


def mask_targets(rois: SampledROIs, gt_masks: tf.Tensor, num_masks: int, size: int) -> tuple[tf.Tensor, ...]:
    """Chooses foreground ROIs and crops the ground-truth masks to them.

    Args:
        rois: the sampled ROIs, foreground first.
        gt_masks: uint8 [batch, m, crop, crop] in 0..255, or float in 0..1: each mask cropped to its own box.
        num_masks: the number of ROIs per image.
        size: number of cells along a side of the targets.

    Returns:
        ROIs float32 [batch, num_masks, 4], classes int64 [batch, num_masks] (0: no target) and targets
        float32 [batch, num_masks, size, size] in 0..1, one bilinear sample at each cell's centre.
    """
    num_masks = min(num_masks, int(rois.boxes.shape[1]))
    boxes, classes = rois.boxes[:, :num_masks], rois.classes[:, :num_masks]
    matched_boxes = rois.matched_boxes[:, :num_masks]
    masks = tf.cast(gt_masks, tf.float32) * (1 / 255.0 if gt_masks.dtype == tf.uint8 else 1.0)
    masks = tf.gather(masks, rois.matched_indices[:, :num_masks], batch_dims=1)  # GPUs cannot gather uint8
    crop = int(gt_masks.shape[-1])

    masks = tf.pad(masks, [[0, 0], [0, 0], [_MASK_MARGIN] * 2, [_MASK_MARGIN] * 2])
    last = float(crop + 2 * _MASK_MARGIN - 1)
    scale = crop / (matched_boxes[..., 2:] - matched_boxes[..., :2] + _EPSILON)
    low = (boxes[..., :2] - matched_boxes[..., :2]) * scale + _MASK_MARGIN
    extent = (boxes[..., 2:] - boxes[..., :2]) * scale
    steps = (tf.range(size, dtype=tf.float32) + 0.5) / size
    position = low[..., None, :] + steps[:, None] * extent[..., None, :]  # [batch, masks, size, (y, x)]
    floor = tf.clip_by_value(tf.floor(position), 0.0, last)
    weight = position - floor
    ceiling = tf.minimum(floor + 1.0, last)

    def rows(index: tf.Tensor) -> tf.Tensor:
        return tf.gather(masks, tf.cast(index[..., 0], tf.int32), axis=2, batch_dims=2)

    def columns(values: tf.Tensor, index: tf.Tensor) -> tf.Tensor:
        picked = tf.gather(tf.transpose(values, [0, 1, 3, 2]), tf.cast(index[..., 1], tf.int32), axis=2, batch_dims=2)
        return tf.transpose(picked, [0, 1, 3, 2])

    weight_y, weight_x = weight[..., 0][..., :, None], weight[..., 1][..., None, :]
    strip = rows(floor) * (1.0 - weight_y) + rows(ceiling) * weight_y
    targets = columns(strip, floor) * (1.0 - weight_x) + columns(strip, ceiling) * weight_x
    targets = tf.where((classes > 0)[..., None, None], targets, 0.0)
    return boxes, classes, tf.stop_gradient(targets)
