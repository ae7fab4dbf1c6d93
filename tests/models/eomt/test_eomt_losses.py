"""The losses of EoMT: golden figures of the authors' own and of Hugging Face's, and properties."""

from __future__ import annotations

import json
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from eomt_targets import in_order, injected, segment_targets

from panoptic_cli.config.eomt import Eomt
from panoptic_cli.models.eomt import losses
from panoptic_cli.models.eomt.assignment import assign
from panoptic_cli.models.eomt.heads import Prediction
from panoptic_cli.models.eomt.losses import Points, SegmentTargets

# Figures are those of float32 programs; the README states noise of at most 6e-6 of the whole network's total.
CLOSE: Any = {"rtol": 2e-5, "atol": 2e-6}


@pytest.fixture(scope="module")
def golden(shared: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    folder = shared / "conformance" / "eomt"
    return json.loads((folder / "losses.json").read_text()), dict(np.load(folder / "losses.npz"))


def made_up_outputs(arrays: dict[str, np.ndarray], pictures: slice, queries: int = 16) -> Prediction:
    """The mask logits as features of a channel for each query, so that the embeddings are the unit vectors."""
    masks = arrays["layer_mask_logits"][pictures, :queries]
    unit = np.tile(np.eye(queries, dtype=np.float32), (len(masks), 1, 1))
    classes = arrays["layer_class_logits"][pictures, :queries]
    return Prediction(tf.constant(classes), tf.constant(unit), tf.constant(masks.transpose(0, 2, 3, 1)))


def config_of(facts: dict[str, Any]) -> Eomt:
    return Eomt(train_num_points=facts["num_points"])


def all_losses(
    outputs: Prediction, targets: SegmentTargets, draws: Points, config: Eomt
) -> tuple[dict[str, tf.Tensor], np.ndarray]:
    costs = losses.matching_costs(outputs, targets, tf.constant(draws.matching))
    matched = losses.match(costs, targets, int(targets.classes.shape[1]), config)
    queries = outputs.class_logits.shape[0] * outputs.class_logits.shape[1]
    segments = tf.cast(tf.reduce_sum(losses.segment_counts(targets)), tf.float32)
    matches = tf.reduce_sum(tf.cast(matched >= 0, tf.float32))
    sums = tf.maximum(segments, 1.0), losses.class_weight_sum(matches, queries, config)
    ordered = in_order(draws, matched.numpy())
    return losses.prediction_losses(outputs, targets, matched, ordered, config, sums), matched.numpy()


def test_matching(golden: tuple[dict[str, Any], dict[str, np.ndarray]]) -> None:
    facts, arrays = golden
    targets = segment_targets(facts["targets"], facts["mask_size"], 7)
    outputs = made_up_outputs(arrays, slice(None))
    draws = injected(facts["salt"], "layer/0", [3, 5], 7, facts["num_points"])
    np.testing.assert_array_equal(draws.matching[0], arrays["points_match_0"][0])
    costs = losses.matching_costs(outputs, targets, tf.constant(draws.matching))
    matched = losses.match(costs, targets, 7, config_of(facts)).numpy()
    for picture, count in enumerate((3, 5)):
        for name, cost in zip(("class", "mask", "dice"), costs, strict=True):
            found = cost.numpy()[picture, :count].T
            np.testing.assert_allclose(found, arrays[f"cost_{name}_{picture}"], **CLOSE)
        rows, columns = arrays[f"rows_{picture}"], arrays[f"cols_{picture}"]
        np.testing.assert_array_equal(matched[picture, columns], rows)
        assert (matched[picture, count:] == -1).all()


def test_points(golden: tuple[dict[str, Any], dict[str, np.ndarray]]) -> None:
    facts, arrays = golden
    targets = segment_targets(facts["targets"], facts["mask_size"], 5)
    outputs, config = made_up_outputs(arrays, slice(None)), config_of(facts)
    matched = np.full((2, 5), -1)
    for picture in range(2):
        matched[picture, arrays[f"cols_{picture}"]] = arrays[f"rows_{picture}"]
    draws = in_order(Points(arrays["points_match_0"], arrays["points_oversampled"], arrays["points_uniform"]), matched)
    query = tf.constant(np.maximum(matched, 0), tf.int32)
    logits, inside = losses._at_points(outputs, targets, query, draws, config)
    order = [(b, c) for b in range(2) for c in arrays[f"cols_{b}"]]  # matched masks, queries ascending
    np.testing.assert_allclose([logits[b, c] for b, c in order], arrays["point_logits"], **CLOSE)
    np.testing.assert_allclose([inside[b, c] for b, c in order], arrays["point_labels"], **CLOSE)


def test_losses_and_gradients_of_one_layer(golden: tuple[dict[str, Any], dict[str, np.ndarray]]) -> None:
    facts, arrays = golden
    targets = segment_targets(facts["targets"], facts["mask_size"], 5)
    outputs, config = made_up_outputs(arrays, slice(None)), config_of(facts)
    draws = injected(facts["salt"], "layer/0", [3, 5], 5, facts["num_points"])
    with tf.GradientTape() as tape:
        tape.watch([outputs.class_logits, outputs.features])
        parts, _ = all_losses(outputs, targets, draws, config)
        total = losses.weighted_total([parts], config)
    _expect(parts, facts["layer"])
    np.testing.assert_allclose(total, facts["layer"]["total"], **CLOSE)
    of_classes, of_masks = tape.gradient(total, [outputs.class_logits, outputs.features])
    np.testing.assert_allclose(of_classes, arrays["layer_gradient_class_logits"], **CLOSE)
    np.testing.assert_allclose(of_masks.numpy().transpose(0, 3, 1, 2), arrays["layer_gradient_mask_logits"], **CLOSE)


def test_a_picture_without_segments(golden: tuple[dict[str, Any], dict[str, np.ndarray]]) -> None:
    facts, arrays = golden
    targets = segment_targets([facts["targets"][0], []], facts["mask_size"], 5)
    draws = injected(facts["salt"], "empty/0", [3, 0], 5, facts["num_points"])
    parts, matched = all_losses(made_up_outputs(arrays, slice(None)), targets, draws, config_of(facts))
    _expect(parts, facts["empty"])
    assert (matched[1] == -1).all()


def test_more_segments_than_queries(golden: tuple[dict[str, Any], dict[str, np.ndarray]]) -> None:
    facts, arrays = golden
    rows, columns, height, width = facts["crowd"]["grid"]
    cells = [
        [place % 133, "rectangle", y * height, x * width, (y + 1) * height, (x + 1) * width]
        for place, (y, x) in enumerate(np.ndindex(rows, columns))
    ]
    targets = segment_targets([cells], facts["mask_size"], 24)
    draws = injected(facts["salt"], "crowd/0", [8], 24, facts["num_points"])
    parts, matched = all_losses(made_up_outputs(arrays, slice(0, 1), 8), targets, draws, config_of(facts))
    _expect(parts, facts["crowd"]["hf"])  # divided by the segments
    assert sorted(matched[matched >= 0]) == list(range(8))


def _expect(parts: dict[str, tf.Tensor], facts: dict[str, float]) -> None:
    np.testing.assert_allclose(parts["mask_loss"], facts["loss_mask"], **CLOSE)
    np.testing.assert_allclose(parts["dice_loss"], facts["loss_dice"], **CLOSE)
    np.testing.assert_allclose(parts["cross_entropy_loss"], facts["loss_cross_entropy"], **CLOSE)


@pytest.mark.parametrize("compiled", [False, True], ids=["graph", "XLA"])
def test_assignments_are_the_cheapest(compiled: bool) -> None:
    cost = np.random.default_rng(5).normal(size=(40, 4, 6)).astype(np.float32)
    counts = np.arange(40, dtype=np.int32) % 5
    found = tf.function(assign, jit_compile=compiled, autograph=False)(tf.constant(cost), tf.constant(counts)).numpy()
    for problem, count, columns in zip(cost, counts, found, strict=True):
        best = min(permutations(range(6), int(count)), key=lambda p: sum(problem[r, c] for r, c in enumerate(p)))
        assert tuple(columns[:count]) == best
        assert (columns[count:] == -1).all()
