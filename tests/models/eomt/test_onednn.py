"""The forms of half precision for CPUs on which oneDNN computes in it, with float32 inside."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from panoptic_cli import devices
from panoptic_cli.config.eomt import Eomt
from panoptic_cli.models.eomt import onednn
from panoptic_cli.models.eomt.attention import Attention, attend
from panoptic_cli.models.eomt.layers import LayerNorm


@pytest.mark.parametrize(
    ("flags", "expected"), [("", False), ("fma avx2", False), ("avx2 avx512f", True), ("avx_ne_convert", True)]
)
@pytest.mark.parametrize("used", [False, True])
def test_instructions_and_tensorflow_decide(
    flags: str, expected: bool, used: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "cpu_flags", lambda: frozenset(flags.split()))
    monkeypatch.setattr(onednn, "is_used", lambda: used)
    assert onednn.computes(tf.bfloat16) == (expected and used)
    assert onednn.computes(tf.float32) == used
    assert not onednn.computes(tf.float16)


@pytest.mark.parametrize("graph", [False, True])
def test_attention_without_casts_is_as_exact_as_the_type(graph: bool) -> None:
    q, k, v = (tf.random.stateless_normal([1, 2, 50, 16], [3, seed]) for seed in range(3))
    expected = attend(q, k, v)

    def half(q: tf.Tensor, k: tf.Tensor, v: tf.Tensor) -> tf.Tensor:
        q, k, v = (tf.cast(x, tf.bfloat16) for x in (q, k, v))
        return attend(q, k, v, casts=False)

    found = (tf.function(half, autograph=False) if graph else half)(q, k, v)
    assert found.dtype == tf.bfloat16
    # bfloat16 has 8 bits; values are of the order of 1, and each is a mean with weights that are rounded, too.
    np.testing.assert_allclose(tf.cast(found, tf.float32), expected, rtol=0, atol=0.05)


@pytest.mark.usefixtures("restored_policy")
@pytest.mark.parametrize("computes", [False, True])
def test_softmax_gets_bfloat16_where_onednn_computes_it(computes: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn, "computes", lambda dtype: computes)
    keras.config.set_dtype_policy("bfloat16")
    layer = Attention(Eomt(image_size=64, hidden_size=32, num_attention_heads=2))
    graph = (
        tf.function(layer.__call__, autograph=False).get_concrete_function(tf.TensorSpec([1, 9, 32], tf.bfloat16)).graph
    )
    found = {op.inputs[0].dtype for op in graph.get_operations() if op.type == "Softmax"}
    assert found == {tf.bfloat16 if computes else tf.float32}


@pytest.mark.skipif(not onednn.is_used(), reason="TensorFlow does not use oneDNN here (TF_ENABLE_ONEDNN_OPTS=1)")
def test_layer_normalisation_of_bfloat16_in_the_form_of_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = LayerNorm(16, 1e-6)
    layer.gamma.assign(tf.linspace(0.5, 1.5, 16))
    layer.beta.assign(tf.linspace(-1.0, 1.0, 16))
    x = tf.cast(tf.random.stateless_normal([2, 9, 16], [1, 2]) + 3, tf.bfloat16)
    expected = layer(x)  # eager, which has the plain form
    assert expected.dtype == tf.float32
    monkeypatch.setattr(onednn, "computes", lambda dtype: True)
    found = tf.function(layer.__call__, autograph=False)(x)
    assert found.dtype == tf.bfloat16
    # Factors, offsets and results are rounded to 8 bits; the results are up to 4.
    np.testing.assert_allclose(tf.cast(found, tf.float32), expected, rtol=0, atol=0.04)
