"""A training step of EoMT: the losses of all its predictions."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from panoptic_cli.config.eomt import Eomt
from panoptic_cli.models.eomt import losses as loss_ops
from panoptic_cli.models.eomt.heads import Prediction
from panoptic_cli.models.eomt.losses import Costs, Points, SegmentTargets
from panoptic_cli.models.platform import Platform
from panoptic_cli.models.random_numbers import fold, uniform_by_picture

_POWER = 0.9  # of the decay of the masked attention


def mask_probabilities(config: Eomt, step: tf.Tensor, train_steps: int) -> tf.Tensor:
    """Returns the probability that a query's attention is masked in each of the blocks with queries.

    It falls from 1 to 0, block after block (mask annealing, arXiv 2503.19108): at the end, the network is a plain
    transformer.

    Args:
        config: the number of blocks and, if they are set, the steps.
        step: int32 scalar, the optimizer steps that are done.
        train_steps: length of the training.

    Returns:
        float32 [num_blocks].
    """
    starts, ends = config.annealing_steps(train_steps)
    first, last = tf.constant(starts, tf.float32), tf.constant(ends, tf.float32)
    done = (tf.cast(step, tf.float32) - first) / tf.maximum(last - first, 1.0)
    return tf.pow(1.0 - tf.clip_by_value(done, 0.0, 1.0), _POWER)


def draw_points(config: Eomt, batch: int, segments: tf.Tensor | int, seed: tf.Tensor) -> Points:
    """Draws the points of one prediction.

    Args:
        config: how many.
        batch: pictures of this replica.
        segments: for how many segments of a picture.
        seed: int32 [2], the same on every replica.
    """
    matching, candidates, rest = loss_ops.point_counts(config)
    return Points(
        uniform_by_picture(batch, [matching, 2], fold(seed, 0)),
        uniform_by_picture(batch, [segments, candidates, 2], fold(seed, 1)),
        uniform_by_picture(batch, [segments, rest, 2], fold(seed, 2)),
    )


def training_losses(
    predictions: Sequence[Prediction],
    targets: SegmentTargets,
    points: Sequence[Points] | None,
    seed: tf.Tensor,
    config: Eomt,
    platform: Platform,
) -> dict[str, tf.Tensor]:
    """Compares every prediction with the segments; each has its own matching.

    Args:
        predictions: those of `Eomt.predictions`.
        targets: the segments, as many places as a picture may have.
        points: the points of each prediction; None: random ones.
        seed: int32 [2], see `PanopticNetwork.losses`.
        config: weights and numbers of points.
        platform: what the graph is traced for. Elsewhere than under XLA, places that no picture of the batch needs cost
            nothing.

    Returns:
        float32 scalars: total_loss, weighted; cross_entropy_loss, mask_loss and dice_loss, the means over the
        predictions.
    """
    batch, most = targets.classes.shape.as_list()
    counts = loss_ops.segment_counts(targets)
    if platform != "xla":
        targets = targets._replace(classes=targets.classes[:, : tf.maximum(tf.reduce_max(counts), 1)])
    places = tf.shape(targets.classes)[1] if platform != "xla" else most
    if points is None:
        points = [draw_points(config, batch, places, fold(seed, number)) for number in range(len(predictions))]
    costs = [
        loss_ops.matching_costs(outputs, targets, drawn.matching)
        for outputs, drawn in zip(predictions, points, strict=True)
    ]
    # All matchings at once: the assignment is a loop of small operations.
    together = Costs(*(tf.concat(parts, axis=0) for parts in zip(*costs, strict=True)))
    tiled = SegmentTargets(targets.segment_map, tf.tile(targets.classes, [len(predictions), 1]))
    matched = tf.split(loss_ops.match(together, tiled, most, config), len(predictions))
    sums = _global_sums(counts, config, batch)
    parts = [
        loss_ops.prediction_losses(outputs, targets, queries, drawn, config, sums)
        for outputs, queries, drawn in zip(predictions, matched, points, strict=True)
    ]
    means = {name: tf.add_n([part[name] for part in parts]) / len(parts) for name in parts[0]}
    return {"total_loss": loss_ops.weighted_total(parts, config), **means}


def _global_sums(counts: tf.Tensor, config: Eomt, batch: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns what the losses are divided by; see `losses.prediction_losses`."""
    matches = tf.minimum(counts, config.num_queries)
    sums = tf.cast(tf.stack([tf.reduce_sum(counts), tf.reduce_sum(matches)]), tf.float32)
    context = tf.distribute.get_replica_context()
    replicas = 1 if context is None else context.num_replicas_in_sync
    if replicas > 1:
        sums = context.all_reduce(tf.distribute.ReduceOp.SUM, sums) / replicas
    return tf.maximum(sums[0], 1.0), loss_ops.class_weight_sum(sums[1], batch * config.num_queries, config)
