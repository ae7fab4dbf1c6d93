"""The logits of an inference, computed in stripes of rows, compared with those from the features of all pixels."""

from __future__ import annotations

import itertools
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from panoptic_cli.config.eomt import Eomt as EomtConfig
from panoptic_cli.models.eomt import heads as heads_module
from panoptic_cli.models.eomt.heads import Heads

GRID = (4, 6)
TOKENS = 5 + 1 + GRID[0] * GRID[1]  # queries, the class token, patches


def heads(upscale_blocks: int) -> Heads:
    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "num_attention_heads": 2,
        "num_queries": 5,
        "num_upscale_blocks": upscale_blocks,
    }
    layer = Heads(EomtConfig(image_size=64, **sizes), num_classes=3)
    for number, variable in enumerate(layer.variables):  # biases that matter at the edges of pictures and stripes
        variable.assign(tf.random.stateless_normal(variable.shape, [0, number], stddev=0.3))
    return layer


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize(("upscale_blocks", "rows"), [(0, 1), (1, 1), (1, 3), (2, 1), (2, 3), (2, 7), (2, 8)])
def test_stripes_are_rows_of_the_whole(
    upscale_blocks: int, rows: int, graph: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = heads(upscale_blocks)
    x = tf.random.stateless_normal([2, TOKENS, 32], [1, 2])
    whole = layer(x, grid=GRID)
    width = GRID[1] * 2 ** max(upscale_blocks - 1, 0)
    monkeypatch.setitem(heads_module.CHUNK_BYTES, "cpu", rows * 4 * 4 * width * 32)  # four pixels of 4 bytes a channel

    compute = tf.function(layer.logits, autograph=False) if graph else layer.logits
    classes, masks = compute(x, GRID)

    np.testing.assert_allclose(classes, whole.class_logits, rtol=0, atol=1e-5)
    # Sums of 32 products of the order of 1 in another order.
    np.testing.assert_allclose(masks, whole.mask_logits, rtol=0, atol=1e-4)
    assert np.std(masks) > 1


def test_stripes_are_not_in_memory_together(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = heads(2)
    monkeypatch.setitem(heads_module.CHUNK_BYTES, "cpu", 4 * 4 * 2 * GRID[1] * 32)  # of one row
    compute = tf.function(lambda x: layer.logits(x, GRID), autograph=False)
    graph = compute.get_concrete_function(tf.TensorSpec([1, TOKENS, 32])).graph
    cells = 2 * 4 * GRID[1]  # of two rows
    stripes = [op for op in graph.get_operations() if "MatMul" in op.type and op.outputs[0].shape[-1] == cells]
    assert len(stripes) == 2 * GRID[0]
    for earlier, later in itertools.pairwise(stripes):
        assert earlier in ancestors(later)


def ancestors(operation: tf.Operation) -> set[tf.Operation]:
    found: set[tf.Operation] = set()
    waiting = [operation]
    while waiting:
        current = waiting.pop()
        for before in [*current.control_inputs, *(tensor.op for tensor in current.inputs)]:
            if before not in found:
                found.add(before)
                waiting.append(before)
    return found


class Outer(keras.layers.Layer):
    """Calls the heads as the network does, within a layer, where Keras casts variables."""

    def __init__(self, inner: Heads) -> None:
        super().__init__()
        self.inner = inner

    def call(self, x: tf.Tensor) -> tuple[tf.Tensor, ...]:
        x = tf.cast(x, tf.float32)  # as the layer normalisation returns it
        whole = self.inner(x, grid=GRID)
        return whole.class_logits, whole.mask_logits, *self.inner.logits(x, GRID)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "bfloat16", "mixed_float16"])
def test_stripes_in_half_precision(policy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    keras.config.set_dtype_policy(policy)
    layer = Outer(heads(2))
    x = tf.random.stateless_normal([1, TOKENS, 32], [1, 2])
    monkeypatch.setitem(heads_module.CHUNK_BYTES, "cpu", 3 * 4 * 2 * 2 * GRID[1] * 32)
    whole_classes, whole_masks, classes, masks = tf.function(layer, autograph=False)(x)
    assert classes.dtype == masks.dtype == tf.float32
    np.testing.assert_array_equal(classes, whole_classes)
    # bfloat16 has 8 bits: features differ in the last of them where float32 sums differ.
    assert np.max(np.abs(masks - whole_masks)) < 0.05 * np.std(whole_masks)
