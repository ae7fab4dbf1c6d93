"""Masked attention (training only): each query attends to the patches of its own mask in the block before."""

from __future__ import annotations

import tensorflow as tf

from panoptic_cli.models.eomt.heads import Prediction


def open_patches(
    prediction: Prediction, grid: tuple[int, int], probability: tf.Tensor | float, draws: tf.Tensor
) -> tf.Tensor:
    """Returns which patches each query may attend to: those in its mask, or all. No gradient flows through it.

    Args:
        prediction: has the masks; the sides of its features are `grid` times the same power of two.
        grid: (height, width) of the picture in patches.
        probability: float32 scalar, the probability that a query is masked.
        draws: float32 [batch, queries], uniform in 0..1.

    Returns:
        bool [batch, queries, patches].
    """
    features = tf.stop_gradient(prediction.features)
    _, height, width, channels = features.shape
    cell = height // grid[0]
    if cell > 1:
        # Bilinear interpolation of the logits at the centre of a patch is the mean of the four cells around it, and so
        # is that of the features. The mean's factor does not change the sign.
        cells = tf.reshape(features, [-1, grid[0], cell, width, channels])
        rows = cells[:, :, cell // 2 - 1] + cells[:, :, cell // 2]
        cells = tf.reshape(rows, [-1, *grid, cell, channels])
        features = cells[:, :, :, cell // 2 - 1] + cells[:, :, :, cell // 2]
    pixels = tf.reshape(features, [-1, grid[0] * grid[1], channels])
    inside = tf.matmul(tf.stop_gradient(prediction.embeddings), pixels, transpose_b=True) > 0
    unmasked = (draws > probability) | (tf.convert_to_tensor(probability) <= 0)  # a draw may be 0
    return inside | unmasked[..., None]
