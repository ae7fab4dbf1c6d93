"""3x3 convolutions of small crops with fewer multiplications (Winograd; arXiv 1509.09308).

The box head convolves a thousand 7x7 crops, which is half of the network's arithmetic at inference. Here, a row
of 7 pixels is split into two tiles of 4 and 3 outputs, which take 6 and 5 multiplications per channel instead of 12 and
9: 121 for a crop instead of 441. Every step is a matrix product, which all devices run well.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

_TILE = 4
# With these, the rounding error is three times that of the plain convolution; with (0, 1, -1, 2, -2), seven times.
_POINTS = (0.0, 1.0, -1.0, 0.5, -2.0)


def _tile_matrices(outputs: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the Toom-Cook matrices for `outputs` values of a 3-tap filter: y = a @ ((g @ filter) * (b @ x)).

    The algorithm evaluates polynomials at finite points and at infinity; the convolution is its transpose.

    Returns:
        a [outputs, n], g [n, 3] and b [n, n], where n = outputs + 2.
    """
    n = outputs + 2
    points = np.array(_POINTS[: n - 1])
    a, g, b = np.zeros((outputs, n)), np.zeros((n, 3)), np.zeros((n, n))
    for place, point in enumerate(points):
        others = np.delete(points, place)
        a[:, place] = point ** np.arange(outputs)
        g[place] = point ** np.arange(3) / np.prod(point - others)
        b[place, : n - 1] = np.poly(others)[::-1]
    a[-1, -1] = g[-1, -1] = 1.0
    b[-1] = np.poly(points)[::-1]
    return a, g, b


def row_matrices(size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the matrices for a row of `size` pixels with a zero on either side: tiles of 4, then one for the rest.

    Returns:
        float32 a [size, m], g [m, 3] and b [m, size], where m is the number of multiplications.
    """
    tiles = [_TILE] * (size // _TILE) + ([size % _TILE] if size % _TILE else [])
    m = size + 2 * len(tiles)
    a, g, b = np.zeros((size, m)), np.zeros((m, 3)), np.zeros((m, size + 2))
    pixel = row = 0
    for tile in tiles:
        rows = slice(row, row + tile + 2)
        a[pixel : pixel + tile, rows], g[rows], b[rows, pixel : pixel + tile + 2] = _tile_matrices(tile)
        pixel, row = pixel + tile, row + tile + 2
    return a.astype(np.float32), g.astype(np.float32), b[:, 1:-1].astype(np.float32)


def conv3x3(crops: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """Convolves with stride 1 and zero padding ("same").

    Args:
        crops: float32 [s, s, n, channels]: pixels first, so that every step is one product of large matrices.
        kernel: float32 [3, 3, channels, filters].

    Returns:
        float32 [s, s, n, filters].
    """
    size, channels, filters = crops.shape[0], kernel.shape[2], kernel.shape[3]
    a, g, b = row_matrices(size)
    m = len(b)
    kernels = tf.matmul(np.kron(g, g), tf.reshape(kernel, [9, channels * filters]))
    tiles = tf.reshape(_both_axes(b, crops), [m * m, -1, channels])
    products = tf.matmul(tiles, tf.reshape(kernels, [m * m, channels, filters]))
    return tf.reshape(_both_axes(a, tf.reshape(products, [m, m, -1])), [size, size, -1, filters])


def _both_axes(matrix: np.ndarray, x: tf.Tensor) -> tf.Tensor:
    """Applies a matrix [o, i] along the first two axes: [i, i, ...] -> [o, o, k]."""
    outputs, inputs = matrix.shape
    rows = tf.reshape(tf.matmul(matrix, tf.reshape(x, [inputs, -1])), [outputs, inputs, -1])
    return tf.matmul(np.broadcast_to(matrix, (outputs, outputs, inputs)), rows)
