"""Linear layers, layer normalisation and activations."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from panoptic_cli.config.eomt import Activation, Eomt
from panoptic_cli.models.eomt import onednn
from panoptic_cli.models.platform import Platform


def activation(name: Activation) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns an activation function by its name in the configuration. gelu is the exact one."""
    functions: dict[str, Callable[[tf.Tensor], tf.Tensor]] = {
        "gelu": _gelu,
        "gelu_pytorch_tanh": lambda x: tf.nn.gelu(x, approximate=True),
        "silu": tf.nn.silu,
        "relu": tf.nn.relu,
    }
    return functions[name]


def uniform(fan_in: int) -> keras.initializers.Initializer:
    """Random values in +-1 / sqrt(fan_in), for weights and biases of the heads, as PyTorch's layers begin."""
    bound = fan_in**-0.5
    return keras.initializers.RandomUniform(-bound, bound)


def after(upstream: tf.Tensor, *tensors: tf.Tensor) -> tuple[tf.Tensor, ...]:
    """Returns tensors of the forward pass for a gradient, to be used once its upstream gradient is known.

    Without it, TensorFlow computes what a gradient computes again as soon as the tensors exist, in the forward pass,
    and keeps it in memory until the gradient needs it.
    """
    with tf.control_dependencies([upstream]):
        return tuple(tf.identity(tensor) for tensor in tensors)


@tf.custom_gradient
def _gelu(x: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
    """Computes the exact GELU, unlike tf.nn.gelu without erfc, which ONNX does not have.

    The gradient keeps the input only; TensorFlow's own would keep four tensors of its size.
    """

    def error(x: tf.Tensor) -> tf.Tensor:
        return tf.math.erf(x * tf.constant(0.5**0.5, x.dtype))

    def gradient(upstream: tf.Tensor) -> tf.Tensor:
        (again,) = after(upstream, x)
        density = tf.exp(tf.square(again) * -0.5) * tf.constant((2 * math.pi) ** -0.5, x.dtype)
        return upstream * (0.5 * (1.0 + error(again)) + again * density)

    return 0.5 * x * (1.0 + error(x)), gradient  # in this order, which oneDNN's kernel replaces


def truncated_normal(config: Eomt) -> keras.initializers.Initializer:
    """Returns an initializer for a kernel of the transformer. Kernels must not share one: it repeats its values."""
    return keras.initializers.TruncatedNormal(stddev=config.initializer_range)


class Linear(keras.layers.Layer):
    """A linear layer as one product of matrices, whatever the rank: TensorFlow fuses it with bias and activation.

    Args:
        inputs: number of channels.
        outputs: number of channels of the result.
        kernel: how the kernel [inputs, outputs] begins.
        bias: how the bias begins; None: there is none.
        activation: applied to the result; None: nothing.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        kernel: Any,
        bias: Any = "zeros",
        activation: Callable[[tf.Tensor], tf.Tensor] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.activation = activation
        self.outputs = outputs
        self.kernel = self.add_weight(name="kernel", shape=(inputs, outputs), initializer=kernel)
        self.bias = None if bias is None else self.add_weight(name="bias", shape=(outputs,), initializer=bias)
        self.built = True

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Computes [..., outputs] from [..., inputs]; all sizes but the first are static."""
        return linear(x, self.kernel, self.bias, self.activation)


def linear(
    x: tf.Tensor, kernel: Any, bias: Any, activation: Callable[[tf.Tensor], tf.Tensor] | None = None
) -> tf.Tensor:
    """Computes activation(x @ kernel + bias) as one product of matrices.

    Args:
        x: [..., inputs]; all sizes but the first are static.
        kernel: [inputs, outputs].
        bias: [outputs] or None.
        activation: None: nothing.
    """
    kernel = tf.convert_to_tensor(kernel)
    y = tf.matmul(tf.reshape(x, [-1, x.shape[-1]]), kernel)
    if bias is not None:
        y = tf.nn.bias_add(y, tf.convert_to_tensor(bias))
    if activation is not None:
        y = activation(y)
    return tf.reshape(y, [-1, *x.shape[1:-1], kernel.shape[-1]])


class LayerNorm(keras.layers.Layer):
    """Layer normalisation over the channels, in float32 whatever the policy.

    The result is float32, except where oneDNN's kernel takes and returns bfloat16.
    """

    def __init__(self, channels: int, epsilon: float, **options: Any) -> None:
        super().__init__(dtype="float32", autocast=False, **options)
        self.epsilon = epsilon
        self.gamma = self.add_weight(name="gamma", shape=(channels,), initializer="ones")
        self.beta = self.add_weight(name="beta", shape=(channels,), initializer="zeros")
        self.built = True

    def call(self, x: tf.Tensor, platform: Platform = "cpu", training: bool = False) -> tf.Tensor:
        """Normalises [batch, tokens, channels]."""
        gamma, beta = tf.convert_to_tensor(self.gamma), tf.convert_to_tensor(self.beta)
        if platform == "cpu" and not training and onednn.is_used() and not tf.executing_eagerly():
            x = x if onednn.computes(x.dtype) else tf.cast(x, tf.float32)
            return _fused(x, tf.cast(gamma, x.dtype), tf.cast(beta, x.dtype), self.epsilon)
        return _normalize(tf.cast(x, tf.float32), gamma, beta, self.epsilon)


def _normalize(x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, epsilon: float) -> tf.Tensor:
    """Normalises the last axis. The gradient takes half the memory and time of TensorFlow's own."""

    @tf.custom_gradient
    def compute(
        x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor
    ) -> tuple[tf.Tensor, Callable[[tf.Tensor], tuple[tf.Tensor, ...]]]:
        mean = tf.reduce_mean(x, axis=-1, keepdims=True)
        variance = tf.reduce_mean(tf.math.squared_difference(x, mean), axis=-1, keepdims=True)
        factor = tf.math.rsqrt(variance + epsilon)

        def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, ...]:
            again, center = after(upstream, x, mean)
            normal, rows = (again - center) * factor, list(range(x.shape.rank - 1))
            scaled = upstream * gamma
            shares = tf.reduce_mean(scaled, axis=-1, keepdims=True)
            slopes = tf.reduce_mean(scaled * normal, axis=-1, keepdims=True)
            to_gamma, to_beta = tf.reduce_sum(upstream * normal, axis=rows), tf.reduce_sum(upstream, axis=rows)
            return (scaled - shares - normal * slopes) * factor, to_gamma, to_beta

        return (x - mean) * (factor * gamma) + beta, gradient

    return compute(x, gamma, beta)


def _fused(x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, epsilon: float) -> tf.Tensor:
    """The form of layer normalisation that TensorFlow's graph optimizer turns into oneDNN's kernel.

    It is batch normalisation in training mode with the rows as channels. Alone, it would be slow.
    """
    rows = tf.reduce_prod(tf.shape(x)[:-1])
    channels = x.shape[-1]
    y, *_ = tf.compat.v1.nn.fused_batch_norm(
        tf.reshape(x, tf.stack([1, rows, channels, 1])),
        tf.fill([rows], 1.0),
        tf.fill([rows], 0.0),
        epsilon=epsilon,
        data_format="NCHW",
        is_training=True,
    )
    y = tf.reshape(y, tf.shape(x))
    y.set_shape(x.shape)  # not tf.ensure_shape, an operation that the optimizer would not expect here
    return y * gamma + beta
