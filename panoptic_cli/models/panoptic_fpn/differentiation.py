"""The gradient of one head at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import keras
import tensorflow as tf

Features: TypeAlias = dict[int, tf.Tensor]
# The features -> a weighted loss, and its parts without weights.
HeadLoss: TypeAlias = Callable[[Features], tuple[tf.Tensor, dict[str, tf.Tensor]]]


def differentiated(
    loss: HeadLoss, features: Features, variables: Sequence[keras.Variable]
) -> tuple[tf.Tensor, dict[str, tf.Tensor], list[tf.Tensor]]:
    """Computes a head's loss and, at once, its gradient, so that the head's activations are freed before the next head.

    Only one head's activations are in memory at a time, instead of those of all heads until the gradient reaches them.
    Nothing is computed twice.

    Args:
        loss: computes the weighted loss, and its parts.
        features: the features.
        variables: the head's trainable variables.

    Returns:
        The weighted loss, whose gradient is the one that is computed here, times what comes from above; the parts,
        without a gradient; the gradients, to wait for.
    """
    apart = {level: tf.stop_gradient(x) for level, x in features.items()}
    with tf.GradientTape() as tape:
        tape.watch(list(apart.values()))
        value, parts = loss(apart)
    sources = [*apart.values(), *(variable.value for variable in variables)]
    gradients = [tf.convert_to_tensor(g) for g in tape.gradient(value, sources, unconnected_gradients="zero")]

    @tf.custom_gradient
    def attached(value: tf.Tensor, *sources: tf.Tensor) -> tuple[tf.Tensor, Callable[..., Any]]:
        def gradient(above: tf.Tensor) -> tuple[tf.Tensor | None, ...]:
            return (None, *(tf.cast(above, g.dtype) * g for g in gradients))

        return tf.identity(value), gradient

    total = attached(tf.stop_gradient(value), *features.values(), *(variable.value for variable in variables))
    return total, {name: tf.stop_gradient(part) for name, part in parts.items()}, gradients
