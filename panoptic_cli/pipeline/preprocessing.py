"""What every picture goes through before the network, in training, evaluation, prediction and exported models."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

# Mean and standard deviation of ImageNet's pixels, as fractions of 255.
MEAN = (0.485, 0.456, 0.406)
STDDEV = (0.229, 0.224, 0.225)


class Resizing(NamedTuple):
    """How a picture is brought to the network's input.

    Attributes:
        scaled_size: int32 [2], (height, width) of the whole resized picture.
        scale: float32 [2], resized over original, (y, x).
        offset: int32 [2], first row and column kept of the resized picture.
        image_info: float32 [4, 2]: original size, input size, scale, offset, each (y, x).
    """

    scaled_size: tf.Tensor
    scale: tf.Tensor
    offset: tf.Tensor
    image_info: tf.Tensor


def plan_resizing(
    original_size: tf.Tensor,
    input_size: tuple[int, int],
    random_scale: tf.Tensor | None = None,
    random_offset: tf.Tensor | None = None,
) -> Resizing:
    """Chooses the largest size that keeps the aspect and fits the input, times a random scale.

    Args:
        original_size: int32 [2], (height, width).
        input_size: (height, width) of the network's input.
        random_scale: float32 scalar, factor on the input size; None is 1.
        random_offset: float32 [2] in 0..1, which part is kept where the result is larger than the input.

    Returns:
        The plan.
    """
    desired = tf.constant(input_size, tf.float32)
    original = tf.cast(original_size, tf.float32)
    target = desired if random_scale is None else tf.round(random_scale * desired)
    # At least one pixel, also of a picture so long that its short side would vanish.
    scaled = tf.maximum(tf.round(original * tf.reduce_min(target / original)), 1.0)
    scale = scaled / original
    offset = tf.zeros([2], tf.int32)
    if random_offset is not None:
        offset = tf.cast(tf.maximum(scaled - desired, 0.0) * random_offset, tf.int32)
    info = tf.stack([original, desired, scale, tf.cast(offset, tf.float32)])
    return Resizing(tf.cast(scaled, tf.int32), scale, offset, info)


def resize_image(image: tf.Tensor, resizing: Resizing, input_size: tuple[int, int]) -> tf.Tensor:
    """Resizes (bilinear, no antialiasing), crops, normalises, and pads at the bottom and right with zeros.

    Args:
        image: uint8 or float [height, width, 3], 0..255.
        resizing: the plan.
        input_size: (height, width) of the result.

    Returns:
        float32 [*input_size, 3].
    """
    height, width = input_size
    image = tf.image.resize(image, resizing.scaled_size)
    image = image[resizing.offset[0] : resizing.offset[0] + height, resizing.offset[1] : resizing.offset[1] + width]
    image = normalize(image)
    shape = tf.shape(image)
    image = tf.pad(image, [[0, height - shape[0]], [0, width - shape[1]], [0, 0]])
    return tf.ensure_shape(image, [height, width, 3])


def normalize(image: tf.Tensor) -> tf.Tensor:
    """(image / 255 - MEAN) / STDDEV as one subtraction and one division: float32 [..., width, 3]."""
    # Whole rows against repeated constants: broadcasting along a last axis of 3 takes four times as long.
    shape = tf.shape(image)
    rows = tf.reshape(tf.cast(image, tf.float32), tf.concat([shape[:-2], [shape[-2] * 3]], axis=0))
    mean = tf.tile(tf.constant(MEAN, tf.float32) * 255.0, shape[-2:-1])
    stddev = tf.tile(tf.constant(STDDEV, tf.float32) * 255.0, shape[-2:-1])
    return tf.ensure_shape(tf.reshape((rows - mean) / stddev, shape), image.shape)


def resize_labels(
    labels: tf.Tensor,
    resizing: Resizing,
    input_size: tuple[int, int],
    padding: int,
    classes: tf.Tensor,
    mirrored: tf.Tensor | bool = False,
) -> tf.Tensor:
    """Brings a label map to the network's input by nearest neighbours and looks the classes of its labels up.

    Args:
        labels: uint8 or int32 [height, width], as decoded.
        resizing: the plan of its picture.
        input_size: (height, width) of the result.
        padding: class of the pixels outside the picture.
        classes: int32 [k], the class of each label.
        mirrored: bool scalar, whether to mirror the map from left to right before it is resized.

    Returns:
        int32 [*input_size].
    """
    size = tf.shape(labels)[:2]
    # The size is truncated where the picture's is rounded: as the reference does it, so that labels agree.
    scaled = tf.maximum(tf.cast(resizing.scale * tf.cast(size, tf.float32), tf.int32), 1)
    step = tf.cast(size, tf.float32) / tf.cast(scaled, tf.float32)

    def sources(axis: int) -> tf.Tensor:
        """Which row or column each one of the result is taken from."""
        places = tf.range(resizing.offset[axis], tf.minimum(resizing.offset[axis] + input_size[axis], scaled[axis]))
        nearest = tf.cast(tf.floor((tf.cast(places, tf.float32) + 0.5) * step[axis]), tf.int32)
        return tf.minimum(nearest, size[axis] - 1)

    columns = sources(1)
    columns = tf.where(mirrored, size[1] - 1 - columns, columns)
    # Columns are taken as rows of the transposed map: copying whole rows is twice as fast as copying single pixels.
    # In float32, which holds labels exactly: oneDNN transposes nothing else and logs an error for each other type. Cast
    # before the first gather, because TensorFlow would move a cast right before the transposition behind it.
    rows = tf.gather(tf.cast(labels, tf.float32), sources(0))
    taken = tf.transpose(tf.gather(tf.transpose(rows), columns))
    found = tf.gather(classes, tf.cast(taken, tf.int32))
    shape = tf.shape(found)
    paddings = [[0, input_size[0] - shape[0]], [0, input_size[1] - shape[1]]]
    return tf.ensure_shape(tf.pad(found, paddings, constant_values=padding), input_size)


def preprocess(image: tf.Tensor, input_size: tuple[int, int]) -> tuple[tf.Tensor, tf.Tensor]:
    """Prepares one picture for inference.

    Args:
        image: uint8 [height, width, 3].
        input_size: (height, width) of the network's input.

    Returns:
        float32 [*input_size, 3] and image_info float32 [4, 2].
    """
    resizing = plan_resizing(tf.shape(image)[:2], input_size)
    return resize_image(image, resizing, input_size), resizing.image_info


def decode_image(encoded: tf.Tensor) -> tf.Tensor:
    """Decodes a JPEG or PNG string to uint8 [height, width, 3]; greyscale is repeated, alpha dropped."""
    image = tf.io.decode_image(encoded, channels=3, expand_animations=False)
    image.set_shape([None, None, 3])
    return image
