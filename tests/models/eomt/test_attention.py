"""Attention in chunks against the whole, and masks against a resize."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from panoptic_cli.models.eomt.attention import attend
from panoptic_cli.models.eomt.heads import Prediction
from panoptic_cli.models.eomt.masking import open_patches

BATCH, HEADS, TOKENS, WIDTH, QUERIES, PATCHES = 2, 3, 21, 8, 6, 12


def inputs() -> tuple[Any, Any, Any, Any]:
    generator = np.random.default_rng(1)
    q, k, v = (generator.normal(size=(BATCH, HEADS, TOKENS, WIDTH)).astype(np.float32) for _ in range(3))
    opened = generator.random((BATCH, QUERIES, PATCHES)) < 0.5
    opened[0, 0] = False  # only the tokens that are no patches
    return tf.constant(q), tf.constant(k), tf.constant(v), tf.constant(opened)


def plain(q: Any, k: Any, v: Any, opened: Any) -> Any:
    """The definition, with -inf for closed pairs."""
    scores = tf.einsum("bhqc,bhkc->bhqk", q, k)
    if opened is not None:
        before = tf.ones([BATCH, QUERIES, TOKENS - PATCHES], bool)
        rows = tf.concat([before, opened], axis=-1)
        rows = tf.concat([rows, tf.ones([BATCH, TOKENS - QUERIES, TOKENS], bool)], axis=1)
        scores = tf.where(rows[:, None], scores, -np.inf)
    return tf.einsum("bhqk,bhkc->bhqc", tf.nn.softmax(scores), v)


@pytest.mark.parametrize("rows", [1, 5, 20, 1000])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("compiled", [False, True])
def test_chunks_and_their_gradients_are_those_of_the_whole(rows: int, masked: bool, compiled: bool) -> None:
    q, k, v, opened = inputs()
    opened = opened if masked else None
    weights = tf.random.stateless_normal(q.shape, [1, 2])

    def gradients(function: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch([q, k, v])
            found = function(q, k, v, opened)
            total = tf.reduce_sum(found * weights)
        return [found, *tape.gradient(total, [q, k, v])]

    def chunked(q: Any, k: Any, v: Any, opened: Any) -> Any:
        return attend(q, k, v, opened, chunk_bytes=4 * HEADS * TOKENS * rows)

    found = tf.function(gradients, autograph=False)(chunked) if compiled else gradients(chunked)
    for ours, expected in zip(found, gradients(plain), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-5)  # float32, sums of 21 values around 1


def test_scores_of_one_chunk_are_in_memory_at_once() -> None:
    q, k, v, _ = inputs()
    function = tf.function(lambda q, k, v: attend(q, k, v, chunk_bytes=1), autograph=False).get_concrete_function(
        q, k, v
    )
    products = [op for op in function.graph.get_operations() if op.type == "BatchMatMulV2"]
    assert len(products) == 2 * TOKENS
    scores, results = products[::2], products[1::2]
    assert [list(op.control_inputs) for op in scores[1:]] == [[op] for op in results[:-1]]


def prediction(logits: Any) -> Prediction:
    """Returns queries with these mask logits, [batch, queries, height, width]: each is a channel of the features."""
    batch, queries = logits.shape[:2]
    embeddings = tf.tile(tf.eye(queries)[None], [batch, 1, 1])
    return Prediction(tf.zeros([batch, queries, 2]), embeddings, tf.transpose(logits, [0, 2, 3, 1]))


@pytest.mark.parametrize("cell", [1, 2, 4, 8])
def test_masks_at_patches_are_those_of_a_bilinear_resize(cell: int) -> None:
    grid = (3, 5)
    logits = tf.random.stateless_normal([2, 7, grid[0] * cell, grid[1] * cell], [cell, 1])
    resized = tf.image.resize(tf.transpose(logits, [0, 2, 3, 1]), grid)
    expected = np.reshape(tf.transpose(resized, [0, 3, 1, 2]) > 0, [2, 7, 15])
    found = open_patches(prediction(logits), grid, 1.0, tf.zeros([2, 7]))
    assert np.array_equal(found, expected)


def test_a_draw_above_the_probability_opens_a_whole_row() -> None:
    closed = prediction(-tf.ones([1, 3, 4, 4]))
    draws = tf.constant([[0.2, 0.3, 0.9]])
    assert np.asarray(open_patches(closed, (2, 2), 0.3, draws))[0, :, 0].tolist() == [False, False, True]
    assert np.all(open_patches(closed, (2, 2), 0.0, tf.zeros([1, 3])))  # also where the draw is 0
