"""The input of the transformer: patches with their positions behind CLS and register tokens, and the queries."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from panoptic_cli.config.eomt import Eomt
from panoptic_cli.models.eomt.attention import Rotation
from panoptic_cli.models.eomt.layers import truncated_normal
from panoptic_cli.models.random_numbers import fold, uniform


class Embeddings(keras.layers.Layer):
    """Patches as tokens, row by row, behind one CLS token and the registers."""

    def __init__(self, config: Eomt, **options: Any) -> None:
        super().__init__(**options)
        width, patch = config.hidden_size, config.patch_size
        self.patch_size, self.width = patch, width
        shape = (patch, patch, 3, width)
        self.kernel = self.add_weight(name="kernel", shape=shape, initializer=truncated_normal(config))
        self.bias = self.add_weight(name="bias", shape=(width,), initializer="zeros")
        self.cls_token = self.add_weight(name="cls_token", shape=(1, 1, width), initializer=truncated_normal(config))
        self.register_tokens = self.add_weight(
            name="register_tokens", shape=(1, config.num_register_tokens, width), initializer="zeros"
        )
        self.positions = None
        if not config.rotary:
            places = (config.grid_size**2, width)
            self.positions = self.add_weight(name="positions", shape=places, initializer=truncated_normal(config))
        self.built = True

    def call(self, images: tf.Tensor) -> tf.Tensor:
        """Computes [batch, 1 + registers + patches, channels] from normalised pictures [batch, height, width, 3]."""
        grid = [side // self.patch_size for side in images.shape[1:3]]
        kernel, bias = tf.convert_to_tensor(self.kernel), tf.convert_to_tensor(self.bias)
        x = tf.nn.bias_add(tf.nn.conv2d(images, kernel, strides=self.patch_size, padding="VALID"), bias)
        patches = tf.reshape(x, [-1, grid[0] * grid[1], self.width])
        if self.positions is not None:
            patches += tf.convert_to_tensor(self.positions)
        prefix = tf.concat([tf.convert_to_tensor(self.cls_token), tf.convert_to_tensor(self.register_tokens)], axis=1)
        return tf.concat([tf.repeat(prefix, tf.shape(images)[0], axis=0), patches], axis=1)


class Queries(keras.layers.Layer):
    """The learned queries, which go in front of the tokens."""

    def __init__(self, config: Eomt, **options: Any) -> None:
        super().__init__(**options)
        shape = (config.num_queries, config.hidden_size)
        random = keras.initializers.RandomNormal(stddev=1.0)
        self.queries = self.add_weight(name="queries", shape=shape, initializer=random)
        self.built = True

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Computes [batch, queries + tokens, channels] from [batch, tokens, channels]."""
        queries = tf.repeat(tf.convert_to_tensor(self.queries)[None], tf.shape(x)[0], axis=0)
        return tf.concat([queries, x], axis=1)


class RotaryPositions:
    """The positions of patches as angles (arXiv 2104.09864, as DINOv3 has them for two axes)."""

    def __init__(self, config: Eomt) -> None:
        self._grid = config.grid_size
        self._shift, self._jitter = config.pos_embed_shift, config.pos_embed_jitter
        self._rescale = config.pos_embed_rescale
        count = config.head_dim // 4
        self._frequencies = 2 * math.pi * config.rope_theta ** (-np.arange(count) / count)

    def __call__(self, seed: tf.Tensor | None = None) -> Rotation:
        """Returns the rotation, float32 [patches, head_dim / 2]: angles of the rows, then of the columns.

        Args:
            seed: int32 [2], of the random changes in training; None: the plain positions.
        """
        places = 2 * (np.arange(self._grid) + 0.5) / self._grid - 1
        points: Any = np.stack(np.meshgrid(places, places, indexing="ij"), axis=-1).reshape(-1, 2)
        if seed is None:
            angles = (points[:, :, None] * self._frequencies).reshape(len(points), -1)
            return Rotation(tf.constant(np.cos(angles), tf.float32), tf.constant(np.sin(angles), tf.float32))
        points = self._changed(tf.constant(points, tf.float32), seed)
        angles = points[:, :, None] * tf.constant(self._frequencies, tf.float32)
        angles = tf.reshape(angles, [self._grid**2, -1])
        return Rotation(tf.cos(angles), tf.sin(angles))

    def _changed(self, points: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Moves and scales all positions alike."""

        def within(place: int, shape: list[int], bound: float) -> tf.Tensor:
            return bound * (2 * uniform(shape, fold(seed, place)) - 1)

        if self._shift:
            points += within(0, [2], self._shift)
        if self._jitter is not None:
            points *= tf.exp(within(1, [2], math.log(self._jitter)))
        if self._rescale is not None:
            points *= tf.exp(within(2, [1], math.log(self._rescale)))
        return points
