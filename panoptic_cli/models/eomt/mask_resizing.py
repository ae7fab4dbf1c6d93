"""Mask logits at the picture's own size, a part of the picture at a time.

The authors resize the logits bilinearly to the network's input, cut off the padding, and resize the rest bilinearly to
the picture. Along an axis, both steps together are one matrix with at most four weights in a row, made in float64.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from panoptic_cli.pipeline.preprocessing import Geometry


class Bands(NamedTuple):
    """The weights that turn the cells of an axis into its pixels, in tiles of consecutive pixels.

    Attributes:
        first: int32 [tiles], the first cell that a tile depends on.
        weights: float32 [tiles, tile, span], of the `span` cells from there on. Pixels of the last tile that are beyond
            the picture repeat the picture's last one.
    """

    first: tf.Tensor
    weights: tf.Tensor


def bands(geometry: Geometry, cells: tf.Tensor, axis: int, tile: int | tf.Tensor) -> Bands:
    """Computes the weights of one axis.

    Args:
        geometry: the geometry of the picture, without an offset.
        cells: int32 scalar, the number of cells along the axis, padding included.
        axis: 0 for rows, 1 for columns.
        tile: pixels in a tile.
    """
    length, input_length = (tf.cast(x[axis], tf.float64) for x in (geometry.original_size, geometry.input_size))
    resized = tf.round(length * tf.cast(geometry.scale[axis], tf.float64))
    count = -(-tf.cast(length, tf.int32) // tile)
    pixels = tf.minimum(tf.cast(tf.reshape(tf.range(count * tile), [count, tile]), tf.float64), length - 1.0)
    last = tf.cast(cells - 1, tf.float64)

    def position(place: tf.Tensor) -> tf.Tensor:
        """Returns where a row or column of the network's input lies between the centres of the cells."""
        return tf.clip_by_value((place + 0.5) * tf.cast(cells, tf.float64) / input_length - 0.5, 0.0, last)

    place = tf.clip_by_value((pixels + 0.5) * resized / length - 0.5, 0.0, resized - 1.0)
    lower = tf.floor(place)
    fraction = (place - lower)[..., None]
    low, high = position(lower), position(tf.minimum(lower + 1.0, resized - 1.0))
    start = tf.floor(low[:, 0])
    ends = tf.minimum(tf.floor(high[:, -1]) + 1.0, last)
    span = tf.reduce_max(ends - start) + 1.0
    start = tf.minimum(start, last + 1.0 - span)
    taps = start[:, None, None] + tf.range(span, dtype=tf.float64)

    def hat(at: tf.Tensor) -> tf.Tensor:
        return tf.maximum(1.0 - tf.abs(at[..., None] - taps), 0.0)

    weights = (1.0 - fraction) * hat(low) + fraction * hat(high)
    return Bands(tf.cast(start, tf.int32), tf.cast(weights, tf.float32))


def resize(cells: tf.Tensor, rows: tf.Tensor, columns: tf.Tensor) -> tf.Tensor:
    """Resizes a part of several masks.

    Args:
        cells: float32 [h, n, w], the cells that the part depends on; the masks are in the middle, so that two products
            of matrices suffice.
        rows: float32 [height, h], weights.
        columns: float32 [width, w], likewise.

    Returns:
        float32 [height, n, width].
    """
    shape, height, width = tf.shape(cells), tf.shape(rows)[0], tf.shape(columns)[0]
    wide = tf.matmul(tf.reshape(cells, [shape[0] * shape[1], shape[2]]), columns, transpose_b=True)
    whole = tf.matmul(rows, tf.reshape(wide, [shape[0], shape[1] * width]))
    return tf.reshape(whole, [height, shape[1], width])
