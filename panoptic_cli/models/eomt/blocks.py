"""The blocks of the transformer: attention and an MLP, each normalised before, scaled and added."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from panoptic_cli.config.eomt import Activation, Eomt
from panoptic_cli.models.eomt.attention import Attention, Rotation
from panoptic_cli.models.eomt.layers import LayerNorm, Linear, activation, truncated_normal
from panoptic_cli.models.platform import Platform
from panoptic_cli.models.random_numbers import fold, uniform_by_picture


class MLP(keras.layers.Layer):
    """Two linear layers; with a gate, the first is two, and one is multiplied by the activation of the other."""

    def __init__(self, config: Eomt, **options: Any) -> None:
        super().__init__(**options)
        width, inner = config.hidden_size, config.mlp_size
        bias = "zeros" if config.mlp_bias else None

        def layer(inputs: int, outputs: int, function: Activation | None, name: str) -> Linear:
            act = None if function is None else activation(function)
            return Linear(inputs, outputs, kernel=truncated_normal(config), bias=bias, activation=act, name=name)

        with keras.name_scope(self.name, caller=self):  # for the paths of variables
            self.gate = layer(width, inner, config.gate_activation, "gate") if config.gated else None
            self.up = layer(width, inner, None if config.gated else config.hidden_act, "up")
            self.down = layer(inner, width, None, "down")
        self.built = True

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Computes [batch, tokens, channels] of the same shape."""
        inner = self.up(x)
        return self.down(inner if self.gate is None else self.gate(x) * inner)


class LayerScale(keras.layers.Layer):
    """A factor for each channel."""

    def __init__(self, config: Eomt, **options: Any) -> None:
        super().__init__(**options)
        initial = keras.initializers.Constant(config.layerscale_value)
        self.scale = self.add_weight(name="scale", shape=(config.hidden_size,), initializer=initial)
        self.built = True

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Multiplies [..., channels]."""
        return x * self.scale


class Block(keras.layers.Layer):
    """A block of the transformer."""

    def __init__(self, config: Eomt, **options: Any) -> None:
        super().__init__(**options)
        self.drop_path_rate = config.drop_path_rate
        with keras.name_scope(self.name, caller=self):
            self.norm1 = LayerNorm(config.hidden_size, config.layer_norm_eps, name="norm1")
            self.attention = Attention(config, name="attention")
            self.scale1 = LayerScale(config, name="scale1")
            self.norm2 = LayerNorm(config.hidden_size, config.layer_norm_eps, name="norm2")
            self.mlp = MLP(config, name="mlp")
            self.scale2 = LayerScale(config, name="scale2")
        self.built = True

    def call(
        self,
        x: tf.Tensor,
        rotation: Rotation | None = None,
        open_patches: tf.Tensor | None = None,
        seed: tf.Tensor | None = None,
        platform: Platform = "cpu",
        training: bool = False,
    ) -> tf.Tensor:
        """Computes [batch, tokens, channels] of the same shape.

        Args:
            x: the tokens.
            rotation: see `Attention.call`.
            open_patches: see `attention.attend`.
            seed: int32 [2], of the random numbers of stochastic depth; None: no part is skipped.
            platform: what the graph is traced for.
            training: whether gradients will be computed.
        """
        y = self.norm1(x, platform=platform, training=training)
        y = self.attention(y, rotation=rotation, open_patches=open_patches, platform=platform)
        x += self._drop(self.scale1(y), seed, 0)
        y = self.mlp(self.norm2(x, platform=platform, training=training))
        return x + self._drop(self.scale2(y), seed, 1)

    def _drop(self, y: tf.Tensor, seed: tf.Tensor | None, place: int) -> tf.Tensor:
        """Stochastic depth (arXiv 1603.09382): leaves the part out for random pictures, and raises the others."""
        if seed is None or not self.drop_path_rate:
            return y
        keep = 1.0 - self.drop_path_rate
        kept = uniform_by_picture(y.shape[0], [1, 1], fold(seed, place)) < keep
        return tf.where(kept, y / tf.constant(keep, y.dtype), tf.zeros([], y.dtype))
