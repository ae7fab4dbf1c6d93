"""Attention in chunks of rows: the scores of all pairs of tokens are never in memory at once.

With 16 heads, a picture of 640 pixels has 209 MB of scores in float32, and one of 1280 has 2.8 GB.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from panoptic_cli.config.eomt import Eomt
from panoptic_cli.models.eomt import onednn
from panoptic_cli.models.eomt.layers import Linear, after, linear, truncated_normal
from panoptic_cli.models.platform import Platform

# Bytes of the scores of a chunk. On a CPU, the size does not matter for the speed; elsewhere, larger ones keep the
# device busy.
CHUNK_BYTES: dict[Platform, int] = {
    "cpu": 16 << 20,
    "gpu": 512 << 20,
    "xla": 512 << 20,
    "tflite": 256 << 20,
    "onnx": 256 << 20,
}
_MOST_CHUNKS = 32  # larger pictures have larger chunks instead, because building a graph of thousands takes a minute
_CLOSED = -1e9  # added to the scores of closed pairs, whose probability is then exactly 0


class Rotation(NamedTuple):
    """The rotation of the queries and keys of patches by their positions.

    Attributes:
        cos: [patches, head_dim / 2], the cosine of each pair of channels' angle.
        sin: the sine, likewise.
    """

    cos: tf.Tensor
    sin: tf.Tensor


class _Rows(NamedTuple):
    """Rows of the scores that are computed together, and what is added to them: float32, or None for nothing."""

    number: int
    bias: tf.Tensor | None


class Attention(keras.layers.Layer):
    """Multi-head self-attention. Queries, keys and values come from one product of matrices."""

    def __init__(self, config: Eomt, **options: Any) -> None:
        super().__init__(**options)
        width = config.hidden_size
        self.heads, self.head_dim = config.num_attention_heads, config.head_dim
        self.kernel = self.add_weight(name="kernel", shape=(width, 3 * width), initializer=truncated_normal(config))
        flags = {"query": config.query_bias, "key": config.key_bias, "value": config.value_bias}
        self.biases = {
            name: self.add_weight(name=f"{name}_bias", shape=(width,), initializer="zeros")
            for name, present in flags.items()
            if present
        }
        bias = "zeros" if config.proj_bias else None
        with keras.name_scope(self.name, caller=self):  # for the paths of variables
            self.projection = Linear(width, width, kernel=truncated_normal(config), bias=bias, name="projection")
        self.built = True

    def call(
        self,
        x: tf.Tensor,
        rotation: Rotation | None = None,
        open_patches: tf.Tensor | None = None,
        platform: Platform = "cpu",
    ) -> tf.Tensor:
        """Computes [batch, tokens, channels] of the same shape.

        Args:
            x: the tokens; patches come last.
            rotation: the positions of the patches; None: the tokens contain them.
            open_patches: see `attend`.
            platform: what the graph is traced for.
        """
        tokens, width = x.shape[1:]
        parts = tf.reshape(linear(x, self.kernel, self._bias()), [-1, tokens, 3, self.heads, self.head_dim])
        queries, keys, values = tf.unstack(tf.transpose(parts, [2, 0, 3, 1, 4]))
        if rotation is not None:
            queries, keys = rotate(queries, rotation), rotate(keys, rotation)
        queries *= tf.constant(self.head_dim**-0.5, queries.dtype)
        casts = platform != "cpu" or not onednn.computes(queries.dtype)
        found = attend(queries, keys, values, open_patches, CHUNK_BYTES[platform], casts)
        return self.projection(tf.reshape(tf.transpose(found, [0, 2, 1, 3]), [-1, tokens, width]))

    def _bias(self) -> tf.Tensor | None:
        """Returns the bias of queries, keys and values, [3 * channels]; None: there is none."""
        if not self.biases:
            return None
        found = {name: tf.convert_to_tensor(bias) for name, bias in self.biases.items()}
        zeros = tf.zeros_like(next(iter(found.values())))
        return tf.concat([found.get(name, zeros) for name in ("query", "key", "value")], axis=0)


def rotate(x: tf.Tensor, rotation: Rotation) -> tf.Tensor:
    """Rotates the channels of the last tokens, the patches: channel i with channel i + head_dim / 2.

    Args:
        x: [batch, heads, tokens, head_dim].
        rotation: the angles.
    """
    before = [[x.shape[2] - rotation.cos.shape[0], 0], [0, 0]]  # the other tokens are turned by 0
    cos = tf.cast(tf.pad(rotation.cos, before, constant_values=1.0), x.dtype)
    sin = tf.cast(tf.pad(rotation.sin, before), x.dtype)
    first, second = tf.split(x, 2, axis=-1)
    return tf.concat([first * cos - second * sin, second * cos + first * sin], axis=-1)


def attend(
    queries: tf.Tensor,
    keys: tf.Tensor,
    values: tf.Tensor,
    open_patches: tf.Tensor | None = None,
    chunk_bytes: int = CHUNK_BYTES["cpu"],
    casts: bool = True,
) -> tf.Tensor:
    """Computes softmax(queries @ keys^T) @ values, the softmax in float32.

    The gradient computes the probabilities again instead of keeping them.

    Args:
        queries: [batch, heads, tokens, head_dim], scaled.
        keys: the same shape.
        values: the same shape.
        open_patches: bool [batch, q, patches]: which of the last tokens, the patches, each of the first q tokens may
            attend to. All other pairs are open. None: all pairs are.
        chunk_bytes: limit for the scores of a picture that are in memory at once.
        casts: whether TensorFlow's softmax has to be given float32 to compute in it.

    Returns:
        The same shape as queries.
    """
    heads, tokens = queries.shape[1:3]
    rows = max(1, chunk_bytes // (4 * heads * tokens), math.ceil(tokens / _MOST_CHUNKS))
    chunks = _chunks(tokens, rows, open_patches)

    @tf.custom_gradient
    def compute(
        queries: tf.Tensor, keys: tf.Tensor, values: tf.Tensor
    ) -> tuple[tf.Tensor, Callable[[tf.Tensor], tuple[tf.Tensor, ...]]]:
        def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, ...]:
            again = after(upstream, queries, keys, values)
            return _gradient(chunks, again[0], again[1], again[2], upstream)

        return _attend(chunks, queries, keys, values, casts), gradient

    return compute(queries, keys, values)


def _chunks(tokens: int, most: int, open_patches: tf.Tensor | None) -> list[_Rows]:
    """Divides the rows evenly into chunks of at most `most`; those with closed pairs are apart."""
    if open_patches is None:
        return [_Rows(stop - start, None) for start, stop in ranges(0, tokens, most)]
    masked, patches = open_patches.shape[1:]
    bias = tf.where(open_patches, 0.0, _CLOSED)
    bias = tf.pad(bias, [[0, 0], [0, 0], [tokens - patches, 0]])[:, None]
    closed = [_Rows(stop - start, bias[:, :, start:stop]) for start, stop in ranges(0, masked, most)]
    return closed + [_Rows(stop - start, None) for start, stop in ranges(masked, tokens, most)]


def ranges(start: int, stop: int, most: int) -> list[tuple[int, int]]:
    """Divides start..stop evenly into ranges of at most `most`."""
    count = math.ceil((stop - start) / most)
    step = math.ceil((stop - start) / count)
    return [(place, min(place + step, stop)) for place in range(start, stop, step)]


def _divided(chunks: list[_Rows], x: tf.Tensor) -> list[tf.Tensor]:
    """Divides [batch, heads, tokens, head_dim] into the rows of each chunk."""
    return [x] if len(chunks) == 1 else tf.split(x, [rows.number for rows in chunks], axis=2)


def _probabilities(queries: tf.Tensor, keys: tf.Tensor, bias: tf.Tensor | None, casts: bool = True) -> tf.Tensor:
    """Returns [batch, heads, rows, tokens], given the queries of the rows and what is added to the scores.

    It is float32, or of the queries' type if there is nothing to add and no need for casts.
    """
    scores = tf.matmul(queries, keys, transpose_b=True)
    if bias is None and not casts:
        return tf.nn.softmax(scores)
    scores = tf.cast(scores, tf.float32)
    return tf.nn.softmax(scores if bias is None else scores + bias)


def _attend(chunks: list[_Rows], queries: tf.Tensor, keys: tf.Tensor, values: tf.Tensor, casts: bool) -> tf.Tensor:
    parts: list[tf.Tensor] = []
    for rows, part in zip(chunks, _divided(chunks, queries), strict=True):
        with tf.control_dependencies(parts[-1:]):  # or TensorFlow computes the scores of all chunks first
            found = _probabilities(part, keys, rows.bias, casts)
            parts.append(tf.matmul(tf.cast(found, values.dtype), values))
    return parts[0] if len(parts) == 1 else tf.concat(parts, axis=2)


def _gradient(
    chunks: list[_Rows], queries: tf.Tensor, keys: tf.Tensor, values: tf.Tensor, upstream: tf.Tensor
) -> tuple[tf.Tensor, ...]:
    """Returns the gradients of queries, keys and values, given that of the result."""
    to_queries: list[tf.Tensor] = []
    totals: list[tf.Tensor] = []
    for rows, part, above in zip(chunks, _divided(chunks, queries), _divided(chunks, upstream), strict=True):
        with tf.control_dependencies(to_queries[-1:] + totals):
            found = _probabilities(part, keys, rows.bias)
            to_found = tf.cast(tf.matmul(above, values, transpose_b=True), tf.float32)
            to_scores = found * (to_found - tf.reduce_sum(found * to_found, axis=-1, keepdims=True))
            to_scores = tf.cast(to_scores, queries.dtype)
            to_queries.append(tf.matmul(to_scores, keys))
            to_keys = tf.matmul(to_scores, part, transpose_a=True)
            to_values = tf.matmul(tf.cast(found, values.dtype), above, transpose_a=True)
            totals = [to_keys, to_values] if not totals else [totals[0] + to_keys, totals[1] + to_values]
    return tf.concat(to_queries, axis=2), *totals
