"""The fused batch normalisation, compared with Keras' own."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from panoptic_cli.models.panoptic_fpn.normalization import BatchNormalization


def layers(shape: tuple[int, ...], **options: object) -> tuple[BatchNormalization, keras.layers.Layer]:
    rng = np.random.default_rng(0)
    options = {"momentum": 0.9, "epsilon": 1e-4, **options}
    ours, keras_own = BatchNormalization(**options), keras.layers.BatchNormalization(**options)
    channels = shape[-1]
    values = [rng.normal(1, 0.2, channels), rng.normal(0, 0.3, channels)]  # gamma, beta
    values += [rng.normal(0, 1, channels), rng.uniform(0.5, 2, channels)]  # moving mean and variance
    for layer in (ours, keras_own):
        layer.build((None, *shape[1:]))
        layer.set_weights(values)
    return ours, keras_own


@pytest.mark.parametrize("shape", [(4, 5, 6, 8), (2, 1, 1, 8), (7, 8)])
@pytest.mark.parametrize("training", [True, False])
def test_results_equal_those_of_keras(shape: tuple[int, ...], training: bool) -> None:
    ours, keras_own = layers(shape)
    rng = np.random.default_rng(1)
    for _ in range(3):  # several steps, so that the moving statistics add up
        x = tf.constant(rng.normal(2, 3, shape), tf.float32)
        weight = tf.constant(rng.standard_normal(shape), tf.float32)
        results = []
        for layer in (ours, keras_own):
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = layer(x, training=training)
                loss = tf.reduce_sum(y * weight)
            results.append([y, *tape.gradient(loss, [x, layer.gamma.value, layer.beta.value])])
        # Values are of order 1, and sums of up to 120 values have another order. With two samples per channel, the
        # gradient divides by a variance that may be small, hence the relative part.
        for a, b in zip(*results, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-5)
    for a, b in zip(ours.get_weights(), keras_own.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    changed = not np.allclose(ours.moving_mean, layers(shape)[0].moving_mean)
    assert changed == training


# A 16-bit output is rounded to 8 (bfloat16) or 11 bits; Keras computes the mean in float32 from the same inputs.
@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 2**-7), ("float16", 2**-9)])
@pytest.mark.parametrize("training", [True, False])
def test_16_bit_inputs_have_float32_statistics(dtype: str, tolerance: float, training: bool) -> None:
    shape = (4, 6, 6, 8)
    exact = layers(shape)[1]
    ours, keras_own = layers(shape, dtype=f"mixed_{dtype}")
    x = tf.cast(tf.constant(np.random.default_rng(1).normal(1, 2, shape), tf.float32), dtype)
    y = ours(x, training=training)
    assert y.dtype == tf.as_dtype(dtype)
    assert ours.moving_mean.dtype == "float32"
    keras_own(x, training=training)
    expected = exact(tf.cast(x, tf.float32), training=training)
    np.testing.assert_allclose(tf.cast(y, tf.float32), expected, rtol=tolerance, atol=2 * tolerance)
    # The statistics are those of float32 inputs.
    np.testing.assert_allclose(ours.moving_mean, exact.moving_mean, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(ours.moving_variance, exact.moving_variance, rtol=1e-3)


def test_a_frozen_layer_uses_and_keeps_its_statistics() -> None:
    ours, _ = layers((4, 5, 6, 8))
    x = tf.random.stateless_normal([4, 5, 6, 8], [1, 2], mean=3.0)
    inference = ours(x, training=False)
    ours.trainable = False
    before = ours.get_weights()
    np.testing.assert_array_equal(ours(x, training=True), inference)
    for a, b in zip(before, ours.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
