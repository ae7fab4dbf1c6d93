"""Decoding pictures in TensorFlow graphs: the decoder of training, evaluation, prediction and exported models."""

from __future__ import annotations

import tensorflow as tf


def decode_image(encoded: tf.Tensor) -> tf.Tensor:
    """Decodes a JPEG or PNG.

    Args:
        encoded: string scalar, the file's bytes.

    Returns:
        uint8 [height, width, 3]. Greyscale is repeated, alpha is dropped, and of 16 bits the upper eight are kept.
    """
    image = tf.io.decode_image(encoded, channels=3, expand_animations=False)
    image.set_shape([None, None, 3])
    return image
