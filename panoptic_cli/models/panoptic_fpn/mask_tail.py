"""The end of the mask head in pieces: upsampling, normalisation, ReLU and the mask of one class, for training on a CPU.

The upsampled crops are four times as large as everything else in the head (0.2 GB for 256 crops of 14x14x256), and the
gradient takes three such tensors at once. Here each of the four pixels that a location becomes is a piece of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from panoptic_cli.models.panoptic_fpn.normalization import BatchNormalization

PIECES = 4  # a 2x2 transposed convolution makes four pixels of one


def class_masks(
    x: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor, norm: BatchNormalization, class_kernel: tf.Tensor
) -> list[tf.Tensor]:
    """Computes dot(relu(norm(x @ kernel + bias)), class_kernel) for the four pixels of each location.

    Args:
        x: float32 [n, h, w, channels].
        kernel: float32 [4, channels, filters], one matrix for each pixel, row by row.
        bias: float32 [filters].
        norm: the normalisation of all four pixels together; its moving statistics are updated.
        class_kernel: float32 [n, filters], the last convolution's row for the class of each crop.

    Returns:
        float32 [n, h, w] for each pixel.
    """
    epsilon = norm.epsilon
    gamma, beta = tf.convert_to_tensor(norm.gamma), tf.convert_to_tensor(norm.beta)
    filters = int(kernel.shape[2])

    def activated(piece: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, mean: tf.Tensor, variance: tf.Tensor) -> Any:
        normalized = tf.raw_ops.FusedBatchNormV3(
            x=piece, scale=gamma, offset=beta, mean=mean, variance=variance, epsilon=epsilon, is_training=False
        )
        return tf.nn.relu(normalized.y)

    @tf.custom_gradient
    def function(
        x: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, class_kernel: tf.Tensor
    ) -> tuple[tuple[tf.Tensor, ...], Callable[..., Any]]:
        rows = tf.reshape(x, [-1, x.shape[-1]])
        shape = [-1, x.shape[1], x.shape[2], filters]
        pieces = [tf.reshape(tf.matmul(rows, kernel[i]) + bias, shape) for i in range(PIECES)]
        moments = [tf.nn.moments(piece, [0, 1, 2]) for piece in pieces]
        mean = tf.add_n([m for m, _ in moments]) / PIECES
        # The variance of all is the mean of the variances, plus the variance of the means.
        variance = tf.add_n([v + tf.square(m - mean) for m, v in moments]) / PIECES
        statistics = (gamma, beta, mean, variance)
        logits = []
        before: list[tf.Tensor] = []
        for piece in pieces:
            with tf.control_dependencies(before):  # one activation at a time
                logits.append(tf.einsum("nhwc,nc->nhw", activated(piece, *statistics), class_kernel))
            before = logits[-1:]

        def gradient(*above: tf.Tensor) -> tuple[tf.Tensor, ...]:
            count = tf.cast(PIECES * tf.shape(rows)[0], tf.float32)
            scale = tf.math.rsqrt(variance + epsilon)

            def of_normalized(piece: tf.Tensor, upstream: tf.Tensor, activation: tf.Tensor) -> tf.Tensor:
                spread = upstream[..., None] * class_kernel[:, None, None, :]
                return tf.raw_ops.ReluGrad(gradients=spread, features=activation)

            d_class, d_beta, d_gamma = [], [], []
            before: list[tf.Tensor] = []
            for piece, upstream in zip(pieces, above[:PIECES], strict=True):
                with tf.control_dependencies(before):
                    activation = activated(piece, *statistics)
                    d_class.append(tf.einsum("nhw,nhwc->nc", upstream, activation))
                    d_normalized = of_normalized(piece, upstream, activation)
                    d_beta.append(tf.reduce_sum(d_normalized, [0, 1, 2]))
                    d_gamma.append(tf.reduce_sum(d_normalized * (piece - mean), [0, 1, 2]) * scale)
                before = [d_class[-1], d_beta[-1], d_gamma[-1]]
            sum_beta, sum_gamma = tf.add_n(d_beta), tf.add_n(d_gamma)
            # d piece = gamma * scale * (d normalized - mean of it - normalized * mean of its product with it)
            factor = gamma * scale
            slope = -factor * scale * sum_gamma / count
            offset = -factor * sum_beta / count - slope * mean
            d_rows, d_kernel, d_bias = [], [], []
            before = [slope, offset]
            for index, (piece, upstream) in enumerate(zip(pieces, above[:PIECES], strict=True)):
                with tf.control_dependencies(before):
                    activation = activated(piece, *statistics)
                    d_piece = of_normalized(piece, upstream, activation) * factor + (piece * slope + offset)
                    flat = tf.reshape(d_piece, [-1, filters])
                    d_rows.append(tf.matmul(flat, kernel[index], transpose_b=True))
                    d_kernel.append(tf.matmul(rows, flat, transpose_a=True))
                    d_bias.append(tf.reduce_sum(flat, 0))
                before = [d_rows[-1], d_kernel[-1], d_bias[-1]]
            return (
                tf.reshape(tf.add_n(d_rows), tf.shape(x)),
                tf.stack(d_kernel),
                tf.add_n(d_bias),
                sum_gamma,
                sum_beta,
                tf.add_n(d_class),
            )

        return (*logits, mean, variance), gradient

    *logits, mean, variance = function(x, kernel, bias, gamma, beta, class_kernel)
    norm.collect(mean, variance)
    return logits
