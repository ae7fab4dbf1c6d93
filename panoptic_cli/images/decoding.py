"""Decoding pictures in TensorFlow graphs: the decoder of training, evaluation, prediction and exported models."""

from __future__ import annotations

import re

import tensorflow as tf

from panoptic_cli.errors import one_line

_OPERATION_NAMES = re.compile(r"\{\{.*?\}\}|\[Op:.*|\[\[.*")  # {{function_node ...}} the reason [Op:DecodeImage] name:


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


def decoding_reason(error: Exception) -> str:
    """Returns what TensorFlow says about a picture or record, on one line and without names of operations."""
    text = error.message if isinstance(error, tf.errors.OpError) else str(error)
    return one_line(_OPERATION_NAMES.sub("", text), 150)
