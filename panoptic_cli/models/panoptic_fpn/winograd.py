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


def _multiplications(size: int) -> int:
    return size + 2 * -(-size // _TILE)


def row_matrices(size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the matrices for a row of `size` pixels with a zero on either side.

    The row is split into equal blocks, if these need no more multiplications than the whole row, and a block into tiles
    of 4 outputs and one for the rest. All blocks share the transformed filter.

    Returns:
        float32 a [size, m * blocks], g [m, 3] and b [m * blocks, size], where m is the number of multiplications of a
        block. Number i of a block is at i * blocks + (the number of the block).
    """
    divisors = [divisor for divisor in range(1, size + 1) if size % divisor == 0]
    block = min(divisors, key=lambda divisor: (size // divisor * _multiplications(divisor), divisor))
    blocks, m = size // block, _multiplications(block)
    a, g, b = np.zeros((block, m)), np.zeros((m, 3)), np.zeros((m, block + 2))
    row = 0
    for pixel in range(0, block, _TILE):
        tile = min(_TILE, block - pixel)
        rows = slice(row, row + tile + 2)
        a[pixel : pixel + tile, rows], g[rows], b[rows, pixel : pixel + tile + 2] = _tile_matrices(tile)
        row += tile + 2
    whole_a, whole_b = np.zeros((size, m, blocks)), np.zeros((m, blocks, size + 2))
    for place in range(blocks):
        first = place * block
        whole_a[first : first + block, :, place] = a
        whole_b[:, place, first : first + block + 2] = b
    whole_b = whole_b.reshape(m * blocks, -1)[:, 1:-1]
    return whole_a.reshape(size, -1).astype(np.float32), g.astype(np.float32), whole_b.astype(np.float32)


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
    m = len(g)
    blocks = len(b) // m
    kernels = tf.matmul(np.kron(g, g), tf.reshape(kernel, [9, channels * filters]))
    kernels = tf.reshape(kernels, [m, 1, m, channels, filters])
    products = tf.matmul(tf.reshape(_both_axes(b, crops), [m, blocks, m, -1, channels]), kernels)
    return tf.reshape(_both_axes(a, tf.reshape(products, [len(b), len(b), -1])), [size, size, -1, filters])


def _both_axes(matrix: np.ndarray, x: tf.Tensor) -> tf.Tensor:
    """Applies a matrix [o, i] along the first two axes: [i, i, ...] -> [o, o, k]."""
    outputs, inputs = matrix.shape
    rows = tf.reshape(tf.matmul(matrix, tf.reshape(x, [inputs, -1])), [outputs, inputs, -1])
    return tf.matmul(np.broadcast_to(matrix, (outputs, outputs, inputs)), rows)
