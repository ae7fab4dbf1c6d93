"""The end of the mask head in groups of filters, for training on a CPU: upsampling, normalisation and one class's mask.

The upsampled crops are four times as large as any other activation of the head (205 MB for 256 crops of 14x14x256), and
the gradient needs three such tensors at once. Filters do not depend on each other until the last sum, so a few of them
at a time are enough.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from panoptic_cli.models.panoptic_fpn.normalization import BatchNormalization

_GROUPS = 4


def upsample(x: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
    """Computes a 2x2 transposed convolution as a matrix product, because its patches do not overlap.

    Args:
        x: [n, h, w, channels].
        kernel: [channels, 4, filters]; a location becomes four pixels, row by row.
        bias: [filters].

    Returns:
        [n, h, 4 * w, filters]: the four pixels of a location side by side. Normalisation, activation and a 1x1
        convolution do not depend on the position of a pixel.
    """
    pixels = tf.matmul(tf.reshape(x, [-1, x.shape[-1]]), tf.reshape(kernel, [x.shape[-1], -1])) + tf.tile(bias, [4])
    return tf.reshape(pixels, [-1, x.shape[1], 4 * x.shape[2], bias.shape[0]])


def class_masks(
    x: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor, norm: BatchNormalization, class_kernel: tf.Tensor
) -> tf.Tensor:
    """Computes the sum over filters of relu(norm(x @ kernel + bias)) * class_kernel in training.

    Args:
        x: float32 [n, h, w, channels].
        kernel: float32 [channels, 4, filters], see `upsample`.
        bias: float32 [filters].
        norm: the normalisation, with the fused kernel; its moving statistics are updated.
        class_kernel: float32 [n, filters]: the last convolution's kernel for the class of each crop.

    Returns:
        float32 [n, h, 4 * w]: the four pixels of a location side by side.
    """
    parameters = (kernel, bias, tf.convert_to_tensor(norm.gamma), tf.convert_to_tensor(norm.beta), class_kernel)
    filters = int(bias.shape[0])
    groups = _GROUPS if filters % _GROUPS == 0 else 1

    def mask(
        pixels: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, class_kernel: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        normalized, mean, variance = norm.normalize(pixels, gamma, beta)
        return tf.einsum("nhwc,nc->nhw", tf.nn.relu(normalized), class_kernel), mean, variance

    @tf.custom_gradient
    def function(
        x: tf.Tensor, *parameters: tf.Tensor
    ) -> tuple[tuple[tf.Tensor, tf.Tensor, tf.Tensor], Callable[..., Any]]:
        parts = list(zip(*(tf.split(parameter, groups, axis=-1) for parameter in parameters), strict=True))
        upsampled: list[tf.Tensor] = []
        results: list[tuple[tf.Tensor, tf.Tensor, tf.Tensor]] = []
        for kernel, bias, gamma, beta, class_kernel in parts:
            with tf.control_dependencies(results[-1] if results else []):  # one group at a time
                upsampled.append(upsample(x, kernel, bias))
                results.append(mask(upsampled[-1], gamma, beta, class_kernel))
        logits, mean, variance = zip(*results, strict=True)

        def gradient(above: tf.Tensor, *_: tf.Tensor) -> tuple[tf.Tensor, ...]:
            d_x, found = tf.zeros_like(x), []
            for pixels, (kernel, bias, *others) in zip(upsampled, parts, strict=True):
                # The activations are computed again, after the group before.
                with tf.control_dependencies([above, d_x]), tf.GradientTape(persistent=True) as tape:
                    pixels, inputs = tf.identity(pixels), tf.identity(x)
                    tape.watch([pixels, *others])
                    logits = mask(pixels, *others)[0]
                d_pixels, *d_others = tape.gradient(logits, [pixels, *others], above)
                with tf.GradientTape() as tape:
                    tape.watch([inputs, kernel, bias])
                    again = upsample(inputs, kernel, bias)
                d_inputs, *d_kernel_and_bias = tape.gradient(again, [inputs, kernel, bias], d_pixels)
                d_x += d_inputs
                found.append([*d_kernel_and_bias, *d_others])
            return d_x, *(tf.concat(gradients, axis=-1) for gradients in zip(*found, strict=True))

        return (tf.add_n(logits), tf.concat(mean, 0), tf.concat(variance, 0)), gradient

    logits, mean, variance = function(x, *parameters)
    norm.collect(mean, variance)
    return logits
