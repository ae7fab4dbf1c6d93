"""Winograd convolutions, compared with plain ones."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from panoptic_cli.models.panoptic_fpn.winograd import conv3x3, row_matrices


@pytest.mark.parametrize("size", range(1, 15))
def test_rows_are_convolved_exactly(size: int) -> None:
    # With small whole numbers in float64, only the halves among the points cause rounding.
    rng = np.random.default_rng(size)
    a, g, b = (m.astype(np.float64) for m in row_matrices(size))
    row, taps = rng.integers(-5, 6, size).astype(float), rng.integers(-5, 6, 3).astype(float)
    expected = np.convolve(np.pad(row, 1), taps[::-1], "valid")
    filters = np.repeat(g @ taps, len(b) // len(g))  # blocks share them
    np.testing.assert_allclose(a @ (filters * (b @ row)), expected, atol=2e-5)  # the matrices are float32


@pytest.mark.parametrize(("size", "multiplications"), [(7, 121), (14, 484)])
def test_crops_take_about_a_quarter_of_the_multiplications(size: int, multiplications: int) -> None:
    shapes: list[tuple[int, ...]] = []

    @tf.function(autograph=False)
    def convolve(crops: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        return conv3x3(crops, kernel)

    graph = convolve.get_concrete_function(tf.TensorSpec([size, size, 5, 4]), tf.TensorSpec([3, 3, 4, 6])).graph
    # The product with the kernels: [m, blocks, m, blocks * 5, 4] x [m, 1, m, 4, 6].
    shapes = [tuple(op.outputs[0].shape) for op in graph.get_operations() if op.type.startswith("BatchMatMul")]
    assert [int(np.prod(shape[:-1])) // 5 for shape in shapes if len(shape) == 5] == [multiplications]
    assert multiplications * 3.6 < size * size * 9


@pytest.mark.parametrize(("size", "n"), [(7, 5), (14, 3), (5, 1), (7, 0)])
def test_convolved_crops_equal_those_of_the_plain_convolution(size: int, n: int) -> None:
    rng = np.random.default_rng(size)
    crops = np.maximum(rng.standard_normal((n, size, size, 64)), 0).astype(np.float32)
    kernel = (rng.standard_normal((3, 3, 64, 32)) / 24).astype(np.float32)
    ours = conv3x3(tf.transpose(crops, [1, 2, 0, 3]), tf.constant(kernel)).numpy()
    assert ours.shape == (size, size, n, 32)
    if n == 0:  # no detections: there is nothing to compare
        return
    exact = tf.nn.conv2d(crops.astype(np.float64), kernel.astype(np.float64), 1, "SAME").numpy()
    plain = tf.nn.conv2d(crops, kernel, 1, "SAME").numpy()
    ours = ours.transpose(2, 0, 1, 3)
    # Values are of order 1. The plain float32 convolution is off by about 1e-6, this one by a few times as much.
    assert np.abs(ours - exact).max() < 2e-5
    assert np.sqrt(np.mean((ours - exact) ** 2)) < 8 * np.sqrt(np.mean((plain - exact) ** 2))
