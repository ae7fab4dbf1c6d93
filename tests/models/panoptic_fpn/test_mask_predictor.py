"""The end of the mask head in groups of filters, compared with the whole."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from panoptic_cli.config.panoptic_fpn import NormActivation
from panoptic_cli.models.panoptic_fpn.mask_predictor import class_masks
from panoptic_cli.models.panoptic_fpn.normalization import BatchNormalization, batch_norm


@pytest.mark.parametrize("filters", [8, 6])  # 6 filters make one group
def test_groups_equal_the_whole(filters: int) -> None:
    rng = np.random.default_rng(0)
    x, kernel, bias, class_kernel, above = (
        tf.constant(rng.standard_normal(shape), tf.float32)
        for shape in [(3, 5, 5, 7), (7, 4, filters), (filters,), (3, filters), (3, 5, 20)]
    )
    outcomes = []
    for in_groups in (True, False):
        norm = batch_norm(NormActivation(), "norm")
        norm.build((None, None, None, filters))
        norm.gamma.assign(np.linspace(0.5, 2, filters))
        norm.beta.assign(np.linspace(-1, 1, filters))

        @tf.function(autograph=False)
        def step(in_groups: bool = in_groups, norm: BatchNormalization = norm) -> list[tf.Tensor]:
            sources = [x, kernel, bias, norm.gamma.value, norm.beta.value, class_kernel]
            with tf.GradientTape() as tape:
                tape.watch(sources)
                if in_groups:
                    logits = class_masks(x, kernel, bias, norm, class_kernel)
                else:
                    pixels = tf.reshape(tf.einsum("nhwc,cpf->nhwpf", x, kernel) + bias, [3, 5, 20, filters])
                    logits = tf.einsum("nhwf,nf->nhw", tf.nn.relu(norm(pixels, training=True)), class_kernel)
            return [logits, *tape.gradient(logits, sources, above)]

        outcomes.append([value.numpy() for value in [*step(), norm.moving_mean, norm.moving_variance]])
    for ours, expected in zip(*outcomes, strict=True):
        # Sums of a hundred float32 terms of order 1, in another order. The bias has no gradient but rounding.
        np.testing.assert_allclose(ours, expected, atol=2e-4)
    assert np.abs(outcomes[0][1]).max() > 0.1
