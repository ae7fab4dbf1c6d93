"""Masked attention (training only): each query attends to the patches of its own mask in the block before."""

from __future__ import annotations

import tensorflow as tf


def open_patches(
    mask_logits: tf.Tensor, grid: tuple[int, int], probability: tf.Tensor | float, draws: tf.Tensor
) -> tf.Tensor:
    """Returns which patches each query may attend to: those in its mask, or all.

    Args:
        mask_logits: float32 [batch, queries, height, width], whose sides are `grid` times the same power of two.
        grid: (height, width) of the picture in patches.
        probability: float32 scalar, the probability that a query is masked.
        draws: float32 [batch, queries], uniform in 0..1.

    Returns:
        bool [batch, queries, patches].
    """
    queries, height, width = mask_logits.shape[1:]
    cell = height // grid[0]
    if cell > 1:
        # Bilinear interpolation at the centre of a patch: the mean of the four cells around it.
        cells = tf.reshape(mask_logits, [-1, queries, grid[0], cell, width])
        rows = cells[:, :, :, cell // 2 - 1] + cells[:, :, :, cell // 2]
        cells = tf.reshape(rows, [-1, queries, *grid, cell])
        mask_logits = cells[..., cell // 2 - 1] + cells[..., cell // 2]
    inside = tf.reshape(mask_logits > 0, [-1, queries, grid[0] * grid[1]])
    unmasked = (draws > probability) | (tf.convert_to_tensor(probability) <= 0)  # a draw may be 0
    return inside | unmasked[..., None]
