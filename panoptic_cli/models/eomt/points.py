"""Values of maps at points between their pixels.

A point is (x, y), fractions of the map's width and height. Between the centres of pixels values are interpolated
linearly; outside of the map they are 0, as those of torch.nn.functional.grid_sample are, which the authors use.
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf


class Corners:
    """The four pixels around each point, and their weights.

    Args:
        points: float32 [..., k, 2], (x, y) in 0..1.
        height: rows of the maps.
        width: their columns.

    Attributes:
        indices: four int32 [..., k], the pixel's place in the flat map; that of some pixel where there is none.
        weights: four float32 [..., k], 0 where there is no pixel.
    """

    def __init__(self, points: tf.Tensor, height: int, width: int) -> None:
        x, y = points[..., 0] * width - 0.5, points[..., 1] * height - 0.5
        left, top = tf.floor(x), tf.floor(y)
        right_share, bottom_share = x - left, y - top
        self.indices: list[tf.Tensor] = []
        self.weights: list[tf.Tensor] = []
        for row, in_rows in ((top, 1.0 - bottom_share), (top + 1.0, bottom_share)):
            for column, in_columns in ((left, 1.0 - right_share), (left + 1.0, right_share)):
                exists = (row >= 0.0) & (row < height) & (column >= 0.0) & (column < width)
                place = tf.clip_by_value(row, 0.0, height - 1.0) * width + tf.clip_by_value(column, 0.0, width - 1.0)
                self.indices.append(tf.cast(place, tf.int32))
                self.weights.append(tf.where(exists, in_rows * in_columns, 0.0))

    def sum(self, weighted: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]) -> tf.Tensor:
        """Adds what a function of `indices` and `weights` returns for each corner."""
        return tf.add_n([weighted(index, weight) for index, weight in zip(self.indices, self.weights, strict=True)])


def sample_rows(values: tf.Tensor, points: tf.Tensor, height: int, width: int) -> tf.Tensor:
    """Samples several maps at the same points.

    Args:
        values: float [batch, height * width, n], the values of n maps at each pixel.
        points: float32 [batch, k, 2].
        height: rows of the maps.
        width: their columns.

    Returns:
        float [batch, k, n].
    """
    return Corners(points, height, width).sum(
        lambda index, weight: tf.gather(values, index, batch_dims=1) * tf.cast(weight, values.dtype)[..., None]
    )


def sample_maps(maps: tf.Tensor, points: tf.Tensor, height: int, width: int) -> tf.Tensor:
    """Samples each map at its own points.

    Args:
        maps: float [batch, n, height * width].
        points: float32 [batch, n, k, 2].
        height: rows of the maps.
        width: their columns.

    Returns:
        float [batch, n, k].
    """
    return Corners(points, height, width).sum(
        lambda index, weight: tf.gather(maps, index, batch_dims=2) * tf.cast(weight, maps.dtype)
    )


def sample_segments(segment_map: tf.Tensor, points: tf.Tensor, numbers: tf.Tensor) -> tf.Tensor:
    """Samples the masks of the segments in a map: 1 inside a segment, 0 outside, fractions at its edge.

    Args:
        segment_map: int32 [batch, height, width], the number of each pixel's segment.
        points: float32 [batch, ..., k, 2].
        numbers: int32, broadcastable to [batch, ..., k]: the segment whose mask is sampled at each point.

    Returns:
        float32 [batch, ..., k], broadcast to the shape of `numbers`.
    """
    height, width = int(segment_map.shape[1]), int(segment_map.shape[2])
    flat = tf.reshape(segment_map, [-1, height * width])
    return Corners(points, height, width).sum(
        lambda index, weight: tf.where(tf.gather(flat, index, batch_dims=1) == numbers, weight, 0.0)
    )
