"""Pillow's antialiased bilinear resize of pictures in TensorFlow operations, bit for bit.

Pillow (`Image.resize` with BILINEAR, 8 bits a channel) takes a mean of the pixels around each place, weighted with a
triangle that is as wide as the reduction: first along the rows, then along the columns. The weights have 22 binary
places, and the result is rounded to 8 bits after each of the two.

From version 13 on, Pillow goes along the columns first where the height shrinks more than the width, which rounding
can bring about in a tall picture. Single pixels then differ by one level. Published networks were trained and measured
with earlier versions.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

_ONE = 1 << 22  # the weights are multiples of its reciprocal
_BLOCK = 8  # places that share a window of pixels
_PIXELS_AT_ONCE = 1 << 16  # of the picture, so that the windows fit the processor's cache


class _Bands(NamedTuple):
    """The weights of consecutive places along one axis, in blocks.

    Attributes:
        pixels: int32 [blocks, length], the window of pixels that the places of a block depend on.
        weights: float64 [blocks, _BLOCK, length]; 0 for places outside the resized picture.
    """

    pixels: tf.Tensor
    weights: tf.Tensor


def resample(image: tf.Tensor, scaled_size: tf.Tensor, offset: tf.Tensor, size: tuple[int, int]) -> tf.Tensor:
    """Resizes a picture like Pillow and cuts a window out of the result.

    Args:
        image: uint8 [height, width, 3].
        scaled_size: int32 [2], (height, width) of the whole resized picture.
        offset: int32 [2], first row and column of the window, inside the resized picture.
        size: (height, width) of the window, which may extend beyond the resized picture.

    Returns:
        uint8 [*size, 3]; 0 outside the resized picture.
    """
    original = tf.shape(image)[:2]

    def copied() -> tf.Tensor:
        ends = tf.minimum(offset + tf.constant(size), scaled_size)
        part = image[offset[0] : ends[0], offset[1] : ends[1]]
        shape = tf.shape(part)
        return tf.pad(part, [[0, size[0] - shape[0]], [0, size[1] - shape[1]], [0, 0]])

    def resized() -> tf.Tensor:
        rows = _bands(original[0], scaled_size[0], offset[0], size[0])
        columns = _bands(original[1], scaled_size[1], offset[1], size[1])
        first, last = tf.reduce_min(rows.pixels), tf.reduce_max(rows.pixels) + 1
        narrow = _along_rows(image[first:last], columns, size[1])
        return _means(narrow, rows._replace(pixels=rows.pixels - first), size[0])

    # Pillow copies a picture that keeps its size. An axis that keeps its length has weights of 0 and 1.
    return tf.ensure_shape(tf.cond(tf.reduce_all(original == scaled_size), copied, resized), [*size, 3])


def _bands(length: tf.Tensor, scaled_length: tf.Tensor, first: tf.Tensor, count: int) -> _Bands:
    """Computes the weights of `count` places of an axis from `first` on, rounded like Pillow's."""
    places = first + tf.reshape(tf.range(-(-count // _BLOCK) * _BLOCK), [-1, _BLOCK])
    inside = places < tf.minimum(scaled_length, first + count)
    places = tf.minimum(places, scaled_length - 1)
    step = tf.cast(length, tf.float64) / tf.cast(scaled_length, tf.float64)
    radius = tf.maximum(step, 1.0)
    center = (tf.cast(places, tf.float64) + 0.5) * step
    low = tf.maximum(tf.cast(center - radius + 0.5, tf.int32), 0)
    high = tf.minimum(tf.cast(center + radius + 0.5, tf.int32), length)

    start = low[:, :1]
    pixels = start + tf.range(tf.reduce_max(high[:, -1:] - start))
    taps = pixels[:, None, :]
    distance = (tf.cast(taps, tf.float64) - center[..., None] + 0.5) * (1.0 / radius)
    reached = (taps >= low[..., None]) & (taps < high[..., None])
    triangle = tf.where(reached, tf.maximum(1.0 - tf.abs(distance), 0.0), 0.0)
    # A scan adds one value after the other, like Pillow, so its sums are rounded in the same way.
    shares = triangle / tf.cumsum(triangle, axis=-1)[..., -1:]
    weights = tf.floor(shares * _ONE + 0.5) / _ONE
    return _Bands(tf.minimum(pixels, length - 1), tf.where(inside[..., None], weights, 0.0))


def _along_rows(image: tf.Tensor, bands: _Bands, count: int) -> tf.Tensor:
    """Resizes each row, uint8 [height, width, 3] to [height, count, 3], a few rows at once."""
    shape = tf.shape(image)
    height, width = shape[0], shape[1]
    at_once = tf.clip_by_value(_PIXELS_AT_ONCE // width, 1, height)
    parts = -(-height // at_once)
    padded = tf.pad(image, [[0, parts * at_once - height], [0, 0], [0, 0]])

    def resize(part: tf.Tensor) -> tf.Tensor:
        return tf.transpose(_means(tf.transpose(part, [1, 0, 2]), bands, count), [1, 0, 2])

    spec = tf.TensorSpec([None, count, 3], tf.uint8)
    resized = tf.map_fn(resize, tf.reshape(padded, [parts, at_once, width, 3]), fn_output_signature=spec)
    return tf.reshape(resized, [parts * at_once, count, 3])[:height]


def _means(values: tf.Tensor, bands: _Bands, count: int) -> tf.Tensor:
    """Computes the weighted means along the first axis, uint8 [n, m, 3] to [count, m, 3].

    The sums have 30 binary digits: they are exact in float64, in whatever order a product of matrices adds.
    """
    shape = tf.shape(values)
    windows = tf.gather(tf.cast(tf.reshape(values, [shape[0], shape[1] * 3]), tf.float64), bands.pixels)
    means = tf.cast(tf.matmul(bands.weights, windows) + 0.5, tf.uint8)
    return tf.reshape(means, [-1, shape[1], 3])[:count]
