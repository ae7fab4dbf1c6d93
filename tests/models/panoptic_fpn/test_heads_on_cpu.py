"""The heads with Winograd convolutions in training: outputs, gradients and statistics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from panoptic_cli.config.panoptic_fpn import DetectionHead, MaskHead, NormActivation
from panoptic_cli.models.panoptic_fpn.heads import BoxHead, MaskBranch

CHANNELS, CLASSES = 24, 5


def box_head() -> tuple[keras.layers.Layer, Callable[..., tf.Tensor], int]:
    head = BoxHead(DetectionHead(num_convs=2, num_filters=16, fc_dims=32), CLASSES, NormActivation())
    head.build((7, 7, CHANNELS))
    return (
        head,
        lambda crops, winograd: tf.concat(
            [tf.reshape(x, [-1]) for x in head(crops, training=True, winograd=winograd)], 0
        ),
        7,
    )


def mask_branch() -> tuple[keras.layers.Layer, Callable[..., tf.Tensor], int]:
    head = MaskBranch(MaskHead(num_convs=2, num_filters=16), CLASSES, NormActivation())
    head.build((14, 14, CHANNELS))
    classes = tf.constant([[1, 2, 4], [3, 0, 1]])
    return head, lambda crops, winograd: head(crops, classes, training=True, winograd=winograd), 14


@pytest.mark.parametrize("make", [box_head, mask_branch])
def test_training_with_winograd_convolutions_equals_plain_training(make: Callable[[], Any]) -> None:
    results = []
    for winograd in (False, True):
        keras.utils.set_random_seed(1)
        head, run, size = make()
        rng = np.random.default_rng(0)
        for variable in head.trainable_variables:
            if variable.name != "kernel":
                variable.assign(rng.uniform(0.5, 1.5, variable.shape))
        crops = tf.constant(rng.standard_normal((2, 3, size, size, CHANNELS)), tf.float32)

        @tf.function(autograph=False)
        def step(crops: tf.Tensor, run: Any = run, winograd: bool = winograd, head: Any = head) -> Any:
            with tf.GradientTape() as tape:
                tape.watch(crops)
                outputs = run(crops, winograd)
                loss = tf.reduce_sum(tf.sin(3.0 * outputs))
            gradients = tape.gradient(loss, [crops, *(v.value for v in head.trainable_variables)])
            return outputs, [tf.convert_to_tensor(gradient) for gradient in gradients]

        outputs, gradients = step(crops)
        statistics = [v.numpy() for v in head.non_trainable_variables]
        results.append([outputs.numpy(), *(g.numpy() for g in gradients), *statistics])
    assert len(results[0]) == len(results[1]) > 10
    for plain, fewer in zip(*results, strict=True):
        # The rounding error is three times that of plain float32 convolutions, through two layers and their gradients.
        # Gradients of biases before a normalisation are zero except for rounding.
        np.testing.assert_allclose(fewer, plain, rtol=0, atol=1e-4 * np.abs(plain).max() + 1e-3)
