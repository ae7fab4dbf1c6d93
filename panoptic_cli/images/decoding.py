"""Decoding pictures in TensorFlow graphs: the decoder of training, evaluation, prediction and exported models."""

from __future__ import annotations

import re
from collections.abc import Callable

import tensorflow as tf

from panoptic_cli.errors import one_line
from panoptic_cli.images import png
from panoptic_cli.images.exif_graph import exif_orientation
from panoptic_cli.images.orientation import TRANSPOSED

_DEPTH_PLACE = 24  # of the bits a sample, in the bytes of a PNG
_OPERATION_NAMES = re.compile(r"\{\{.*?\}\}|\[Op:.*|\[\[.*")  # {{function_node ...}} the reason [Op:DecodeImage] name:


def decode_image(encoded: tf.Tensor, accurate_jpeg: bool = False) -> tf.Tensor:
    """Decodes a JPEG or PNG as stored, without its EXIF orientation.

    Args:
        encoded: string scalar, the file's bytes.
        accurate_jpeg: decode JPEG as Pillow does, to the last bit, instead of with TensorFlow's default, which is
            faster and up to 15 levels off.

    Returns:
        uint8 [height, width, 3]. Greyscale is repeated, alpha is dropped, and 16 bits are scaled to 8 as in `depth`.
    """
    beginning = tf.strings.substr(tf.strings.join([encoded, bytes(_DEPTH_PLACE + 1)]), 0, _DEPTH_PLACE + 1)
    is_png = tf.strings.substr(beginning, 0, len(png.SIGNATURE)) == png.SIGNATURE
    is_deep = is_png & (tf.strings.substr(beginning, _DEPTH_PLACE, 1) == b"\x10")
    image = tf.cond(
        is_deep,
        lambda: _eight_bits(tf.io.decode_png(encoded, channels=3, dtype=tf.uint16)),
        lambda: _decode_eight_bits(encoded, accurate_jpeg),
    )
    image.set_shape([None, None, 3])
    return image


def _decode_eight_bits(encoded: tf.Tensor, accurate_jpeg: bool) -> tf.Tensor:
    def decode() -> tf.Tensor:
        return tf.io.decode_image(encoded, channels=3, expand_animations=False)

    if not accurate_jpeg:
        return decode()
    return tf.cond(
        tf.io.is_jpeg(encoded),
        lambda: tf.io.decode_jpeg(encoded, channels=3, dct_method="INTEGER_ACCURATE"),
        decode,
    )


def _eight_bits(image: tf.Tensor) -> tf.Tensor:
    """Scales uint16 to uint8 as `depth.to_eight_bits` does."""
    brightest = tf.cast(tf.reduce_max(image), tf.int32)
    surplus = 2 * tf.reduce_sum(tf.cast(brightest > tf.constant([0xFF, 0x3FF, 0xFFF, 0x3FFF]), tf.int32))
    return tf.cast(tf.bitwise.right_shift(image, tf.cast(surplus, tf.uint16)), tf.uint8)


def decode_upright(encoded: tf.Tensor, accurate_jpeg: bool = False) -> tf.Tensor:
    """Decodes a JPEG or PNG as people see it: the pixels of `pictures.read_picture`.

    Args:
        encoded: string scalar, the file's bytes.
        accurate_jpeg: see `decode_image`. JPEG files that are turned are always decoded like that, because records
            and predictions decode them with Pillow.

    Returns:
        uint8 [height, width, 3], like `decode_image`, but with the EXIF orientation applied.
    """
    orientation = exif_orientation(encoded)
    image = tf.cond(
        orientation == 1,
        lambda: decode_image(encoded, accurate_jpeg),
        lambda: _turn(decode_image(encoded, accurate_jpeg=True), orientation),
    )
    image.set_shape([None, None, 3])
    return image


def _turn(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    def applied(orientations: tuple[int, ...], change: Callable[[tf.Tensor], tf.Tensor], value: tf.Tensor) -> tf.Tensor:
        is_one = tf.reduce_any(orientation == tf.constant(orientations))
        return tf.cond(is_one, lambda: change(value), lambda: value)

    image = applied(TRANSPOSED, lambda value: tf.transpose(value, [1, 0, 2]), image)
    image = applied((3, 4, 7, 8), lambda value: tf.reverse(value, [0]), image)
    return applied((2, 3, 6, 7), lambda value: tf.reverse(value, [1]), image)


def decoding_reason(error: Exception) -> str:
    """Returns what TensorFlow says about a picture or record, on one line and without names of operations."""
    text = error.message if isinstance(error, tf.errors.OpError) else str(error)
    return one_line(_OPERATION_NAMES.sub("", text), 150)
