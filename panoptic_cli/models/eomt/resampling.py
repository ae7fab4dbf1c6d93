"""Position embeddings and patch kernels for other sizes, as timm computes them.

Both are resized bicubically with antialiasing. A patch kernel goes through the pseudo-inverse of that resize (FlexiViT,
arXiv 2212.08013), so that the product with a resized patch stays the same.
"""

from __future__ import annotations

import math

import numpy as np

_CUBIC = -0.5  # the parameter of the cubic with antialiasing, in PyTorch as in Pillow


def resize_matrix(old: int, new: int) -> np.ndarray:
    """Returns the matrix, float64 [new, old], that resizes an axis bicubically with antialiasing."""
    scale = old / new
    width = max(scale, 1.0)
    matrix = np.zeros((new, old))
    for row in range(new):
        centre = (row + 0.5) * scale
        first, last = max(int(centre - 2 * width + 0.5), 0), min(int(centre + 2 * width + 0.5), old)
        weights = _cubic((np.arange(first, last) + 0.5 - centre) / width)
        matrix[row, first:last] = weights / weights.sum()
    return matrix


def resize_positions(positions: np.ndarray, grid: int) -> np.ndarray:
    """Resizes position embeddings to another square grid.

    Args:
        positions: [old grid squared, channels], row by row.
        grid: number of patches along a side.

    Returns:
        float32 [grid * grid, channels].

    Raises:
        ValueError: the old grid is not square.
    """
    count, channels = positions.shape
    old = math.isqrt(count)
    if old * old != count:
        raise ValueError(f"{count} positions are not a square grid")
    if old == grid:
        return positions
    matrix = resize_matrix(old, grid)
    table = positions.astype(np.float64).reshape(old, old, channels)
    resized = np.einsum("yi,xj,ijc->yxc", matrix, matrix, table, optimize=True)
    return resized.reshape(grid * grid, channels).astype(np.float32)


def resize_patch_kernel(kernel: np.ndarray, size: int) -> np.ndarray:
    """Resizes the kernel of patches.

    Args:
        kernel: [outputs, 3, old, old].
        size: number of pixels along a side of a patch.

    Returns:
        float32 [outputs, 3, size, size].

    Raises:
        ValueError: the kernel is not square.
    """
    outputs, inputs, height, width = kernel.shape
    if height != width:
        raise ValueError(f"patches of {height} x {width} pixels are not square")
    if height == size:
        return kernel
    matrix = resize_matrix(height, size)
    inverse = np.linalg.pinv(np.kron(matrix, matrix).T)  # [size * size, old * old]
    flat = kernel.astype(np.float64).reshape(outputs * inputs, height * width)
    return (flat @ inverse.T).reshape(outputs, inputs, size, size).astype(np.float32)


def _cubic(x: np.ndarray) -> np.ndarray:
    """Returns the cubic convolution kernel (Keys 1981)."""
    x, a = np.abs(x), _CUBIC
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))
