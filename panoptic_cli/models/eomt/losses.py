"""The losses of EoMT (arXiv 2503.19108), which are those of Mask2Former (arXiv 2112.01527).

Each prediction is compared with the segments of its picture on points, after each segment was matched with a query.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from panoptic_cli.config.eomt import Eomt
from panoptic_cli.models.eomt.assignment import assign
from panoptic_cli.models.eomt.heads import Prediction
from panoptic_cli.models.eomt.points import sample_maps, sample_rows, sample_segments

_NEVER = 1e4  # the cost of a column that stands for no query, above any cost of a query


class SegmentTargets(NamedTuple):
    """The segments of a batch.

    Attributes:
        segment_map: int32 [batch, height, width], the number 1 .. n of each pixel's segment; 0 for none.
        classes: int32 [batch, most], the class of segment i at place i - 1; -1 after the last.
    """

    segment_map: tf.Tensor
    classes: tf.Tensor


class Points(NamedTuple):
    """The random points of one prediction, as fractions (x, y) of the picture.

    Attributes:
        matching: float32 [batch, points, 2], where queries and segments are compared for the matching.
        candidates: float32 [batch, most, more, 2], of which the most uncertain are taken for each segment.
        uniform: float32 [batch, most, rest, 2], taken as they are.
    """

    matching: tf.Tensor
    candidates: tf.Tensor
    uniform: tf.Tensor


class Costs(NamedTuple):
    """The costs of matching each segment with each query: float32 [batch, most, queries]."""

    classes: tf.Tensor
    mask: tf.Tensor
    dice: tf.Tensor


def point_counts(config: Eomt) -> tuple[int, int, int]:
    """Returns the number of points for the matching, of candidates, and of uniform points of a segment."""
    uncertain = int(config.importance_sample_ratio * config.train_num_points)
    candidates = int(config.oversample_ratio * config.train_num_points)
    return config.train_num_points, candidates, config.train_num_points - uncertain


def matching_costs(outputs: Prediction, targets: SegmentTargets, points: tf.Tensor) -> Costs:
    """Computes what matching a segment with a query would cost. No gradient flows through it.

    Args:
        outputs: one prediction.
        targets: the segments.
        points: float32 [batch, points, 2].
    """
    height, width = outputs.features.shape[1:3]
    most, count = tf.shape(targets.classes)[1], points.shape[1]
    features = tf.reshape(outputs.features, [-1, height * width, outputs.features.shape[3]])
    logits = tf.matmul(features, outputs.embeddings, transpose_b=True)
    logits = tf.cast(sample_rows(logits, points, height, width), tf.float32)  # [batch, points, queries]
    numbers = tf.range(1, most + 1)[None, :, None]
    inside = sample_segments(targets.segment_map, points[:, None], numbers)  # [batch, most, points]
    probabilities = tf.sigmoid(logits)
    overlap = tf.matmul(inside, probabilities)
    total = tf.reduce_sum(probabilities, axis=1)[:, None] + tf.reduce_sum(inside, axis=2)[..., None]
    # The cross-entropy with target z is softplus(x) - x z, so its mean over the points is a matrix product.
    mask = (tf.reduce_sum(tf.math.softplus(logits), axis=1)[:, None] - tf.matmul(inside, logits)) / count
    scores = tf.nn.softmax(tf.cast(outputs.class_logits, tf.float32))
    classes = -tf.gather(scores, tf.maximum(targets.classes, 0), axis=2, batch_dims=1)
    found = (tf.transpose(classes, [0, 2, 1]), mask, 1.0 - (2.0 * overlap + 1.0) / (total + 1.0))
    return Costs(*(tf.stop_gradient(cost) for cost in found))


def match(costs: Costs, targets: SegmentTargets, most: int, config: Eomt) -> tf.Tensor:
    """Matches segments with queries so that the total cost is smallest (the Hungarian method).

    Args:
        costs: see `matching_costs`.
        targets: the segments.
        most: the largest number of segments of a picture; those of the batch may be fewer.
        config: has the weights of the costs.

    Returns:
        int32 [batch, most], the query of each segment; -1 for places without a segment, and for segments that got no
        query because there are more of them than queries.
    """
    total = config.class_weight * costs.classes + config.mask_weight * costs.mask + config.dice_weight * costs.dice
    queries, rows = total.shape[2], tf.shape(total)[1]
    columns = max(most, queries)
    total = tf.pad(total, [[0, 0], [0, most - rows], [0, columns - queries]], constant_values=_NEVER)
    found = assign(tf.ensure_shape(total, [None, most, columns]), segment_counts(targets))[:, :rows]
    return tf.where(found < queries, found, -1)


def segment_counts(targets: SegmentTargets) -> tf.Tensor:
    """Returns the number of segments of each picture, int32 [batch]."""
    return tf.reduce_sum(tf.cast(targets.classes >= 0, tf.int32), axis=1)


def prediction_losses(
    outputs: Prediction,
    targets: SegmentTargets,
    matched: tf.Tensor,
    points: Points,
    config: Eomt,
    global_counts: tuple[tf.Tensor, tf.Tensor],
) -> dict[str, tf.Tensor]:
    """Computes the losses of one prediction, not weighted.

    Args:
        outputs: the prediction.
        targets: the segments.
        matched: int32 [batch, most], the query of each segment, see `match`.
        points: the random points.
        config: weights and numbers of points.
        global_counts: float32 scalars: the segments, and the weight of the queries in the cross-entropy, of the batches
            of all replicas, divided by the number of replicas.

    Returns:
        float32 scalars: cross_entropy_loss, mask_loss, dice_loss.
    """
    segments, weight = global_counts
    exists = tf.cast(matched >= 0, tf.float32)
    query = tf.maximum(matched, 0)
    logits, inside = _at_points(outputs, targets, query, points, config)
    cross_entropy = tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(labels=inside, logits=logits), axis=-1)
    probability = tf.sigmoid(logits)
    overlap = tf.reduce_sum(probability * inside, axis=-1)
    total = tf.reduce_sum(probability, axis=-1) + tf.reduce_sum(inside, axis=-1)
    dice = 1.0 - (2.0 * overlap + 1.0) / (total + 1.0)

    return {
        "cross_entropy_loss": _class_loss(outputs.class_logits, targets, matched, config) / weight,
        "mask_loss": tf.reduce_sum(exists * cross_entropy) / segments,
        "dice_loss": tf.reduce_sum(exists * dice) / segments,
    }


def class_weight_sum(matches: tf.Tensor, queries: int, config: Eomt) -> tf.Tensor:
    """Returns the weight of a batch's queries in the cross-entropy: 1 for a matched one, less for "no object".

    Args:
        matches: float32 scalar, the matched queries of the batch.
        queries: its queries.
        config: has the weight of "no object".
    """
    return matches + config.no_object_weight * (queries - matches)


def _class_loss(class_logits: tf.Tensor, targets: SegmentTargets, matched: tf.Tensor, config: Eomt) -> tf.Tensor:
    """Sums the weighted cross-entropy of all queries."""
    queries, last = class_logits.shape[1], class_logits.shape[2] - 1
    is_match = matched[:, :, None] == tf.range(queries)[None, None, :]  # [batch, most, queries]
    classes = tf.reduce_max(tf.where(is_match, targets.classes[:, :, None], -1), axis=1)
    weights = tf.where(classes >= 0, 1.0, config.no_object_weight)
    labels = tf.where(classes >= 0, classes, last)
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=tf.cast(class_logits, tf.float32))
    return tf.reduce_sum(weights * losses)


def _at_points(
    outputs: Prediction, targets: SegmentTargets, query: tf.Tensor, points: Points, config: Eomt
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns mask logits and targets of each segment and its query, float32 [batch, most, points], at its points.

    Most of the points are those of the candidates where the logits are nearest to 0 (arXiv 1912.08193).
    """
    height, width, channels = outputs.features.shape[1:]
    embeddings = tf.gather(outputs.embeddings, query, batch_dims=1)
    features = tf.reshape(outputs.features, [-1, height * width, channels])
    maps = tf.cast(tf.matmul(embeddings, features, transpose_b=True), tf.float32)  # [batch, most, pixels]
    uncertain = points_of_uncertainty(maps, points, config, height, width)
    taken = tf.concat([uncertain, points.uniform], axis=2)
    numbers = tf.range(1, tf.shape(query)[1] + 1)[None, :, None]
    return sample_maps(maps, taken, height, width), sample_segments(targets.segment_map, taken, numbers)


def points_of_uncertainty(maps: tf.Tensor, points: Points, config: Eomt, height: int, width: int) -> tf.Tensor:
    """Returns the candidates where the logits are nearest to 0, nearest first: float32 [batch, most, taken, 2].

    Args:
        maps: float32 [batch, most, height * width], mask logits.
        points: has the candidates.
        config: has the share to take.
        height: rows of the maps.
        width: their columns.
    """
    taken = int(config.importance_sample_ratio * config.train_num_points)
    distance = tf.abs(sample_maps(tf.stop_gradient(maps), points.candidates, height, width))
    places = tf.math.top_k(-distance, taken).indices
    return tf.stop_gradient(tf.gather(points.candidates, places, batch_dims=2))


def weighted_total(losses: Sequence[dict[str, tf.Tensor]], config: Eomt) -> tf.Tensor:
    """Returns the weighted sum of the losses of all predictions."""
    return tf.add_n(
        [
            config.class_weight * parts["cross_entropy_loss"]
            + config.mask_weight * parts["mask_loss"]
            + config.dice_weight * parts["dice_loss"]
            for parts in losses
        ]
    )
