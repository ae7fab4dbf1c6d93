"""Preprocessing of pictures for the network, in training, evaluation, prediction and exported models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import tensorflow as tf

from panoptic_cli.images.decoding import decode_image
from panoptic_cli.pipeline.resampling import resample

# Mean and standard deviation of ImageNet's pixels, as fractions of 255.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STDDEV = (0.229, 0.224, 0.225)


class Geometry(NamedTuple):
    """The relation between the pixels of the network's input and those of the original picture.

    Attributes:
        original_size: float32 [2] or [batch, 2], (height, width) of the picture in pixels.
        input_size: float32, same shape, (height, width) of the network's input, padding included.
        scale: float32, same shape, resized size over original size, (y, x).
        offset: float32, same shape, first row and column of the resized picture in the input.
    """

    original_size: tf.Tensor
    input_size: tf.Tensor
    scale: tf.Tensor
    offset: tf.Tensor


def geometry_spec(*batch: int | None) -> Geometry:
    """Returns the tensor specifications of a geometry, with these leading dimensions."""
    return Geometry(*(tf.TensorSpec([*batch, 2], tf.float32) for _ in Geometry._fields))


class Resizing(NamedTuple):
    """A plan for bringing a picture to the size of the network's input.

    Attributes:
        scaled_size: int32 [2], (height, width) of the whole resized picture.
        offset: int32 [2], first row and column of the resized picture to keep.
        geometry: the same as floats, for a single picture.
    """

    scaled_size: tf.Tensor
    offset: tf.Tensor
    geometry: Geometry


@dataclass(frozen=True)
class Preprocessing:
    """The preprocessing of a model family.

    A picture is resized bilinearly with its aspect ratio kept, normalised, and padded with zeros at the bottom and on
    the right. The fields say how a family differs.

    Attributes:
        input_size: (height, width) of the network's input in pixels.
        mean: mean of each RGB channel, as a fraction of 255.
        stddev: standard deviation of each channel, likewise.
        antialias: resize as Pillow does, with antialiasing and whole levels of brightness, to sides rounded from
            float64. Otherwise without antialiasing, to sides rounded from float32.
        pads_levels: pad with black before the normalisation, so that padding becomes -mean / stddev.
        accurate_jpeg: decode JPEG files with libjpeg's accurate integer transform, as Pillow does. Otherwise with
            TensorFlow's default, which is faster and up to 15 levels off.
    """

    input_size: tuple[int, int]
    mean: tuple[float, float, float] = IMAGENET_MEAN
    stddev: tuple[float, float, float] = IMAGENET_STDDEV
    antialias: bool = False
    pads_levels: bool = False
    accurate_jpeg: bool = False

    def describe(self) -> dict[str, Any]:
        """Returns the steps in words and numbers, for the description of an exported model."""
        order = "before" if self.pads_levels else "after"
        resize = "bilinear without antialiasing"
        if self.antialias:
            resize = "bilinear with antialiasing like Pillow's BILINEAR, rounded to whole levels"
        return {
            "color_order": "RGB",
            "exif_orientation": "not applied: rotate the picture first",
            "accurate_jpeg": self.accurate_jpeg,
            "resize": f"{resize}, to the largest size of the same aspect ratio within input_size",
            "mean": [255.0 * value for value in self.mean],
            "stddev": [255.0 * value for value in self.stddev],
            "padding": f"zeros {order} normalisation, at the bottom and on the right",
        }

    def decode(self, encoded: tf.Tensor) -> tf.Tensor:
        """Decodes a JPEG or PNG, a string scalar, to uint8 [height, width, 3]; see `images.decoding.decode_image`."""
        return decode_image(encoded, self.accurate_jpeg)

    def prepare(self, image: tf.Tensor) -> tuple[tf.Tensor, Geometry]:
        """Prepares one picture for inference.

        Args:
            image: uint8 [height, width, 3].

        Returns:
            float32 [*input_size, 3], and its geometry.
        """
        resizing = self.plan(tf.shape(image)[:2])
        return self.resize(image, resizing), resizing.geometry

    def plan(
        self,
        original_size: tf.Tensor,
        random_scale: tf.Tensor | None = None,
        random_offset: tf.Tensor | None = None,
    ) -> Resizing:
        """Chooses the largest size that keeps the aspect ratio and fits the input, times a random scale.

        Args:
            original_size: int32 [2], (height, width).
            random_scale: float32 scalar, factor on the input size; None: 1.
            random_offset: float32 [2] in 0..1, which part to keep if the result is larger than the input.

        Returns:
            The plan.
        """
        input_size = tf.constant(self.input_size, tf.float32)
        original = tf.cast(original_size, tf.float32)
        target = input_size if random_scale is None else tf.round(random_scale * input_size)
        exact = tf.float64 if self.antialias else tf.float32
        sides, limits = tf.cast(original_size, exact), tf.cast(target, exact)
        # At least one pixel: the short side of a very long picture would round to zero.
        scaled = tf.cast(tf.maximum(tf.round(sides * tf.reduce_min(limits / sides)), 1.0), tf.float32)
        offset = tf.zeros([2], tf.int32)
        if random_offset is not None:
            offset = tf.cast(tf.maximum(scaled - input_size, 0.0) * random_offset, tf.int32)
        geometry = Geometry(original, input_size, scaled / original, tf.cast(offset, tf.float32))
        return Resizing(tf.cast(scaled, tf.int32), offset, geometry)

    def resize(self, image: tf.Tensor, resizing: Resizing) -> tf.Tensor:
        """Resizes, crops, normalises and pads a picture.

        Args:
            image: uint8 [height, width, 3]; without antialiasing also float, 0..255.
            resizing: the plan.

        Returns:
            float32 [*input_size, 3].
        """
        height, width = self.input_size
        if self.antialias:
            image = resample(image, resizing.scaled_size, resizing.offset, self.input_size)
            kept = resizing.scaled_size - resizing.offset
            image = image[: kept[0], : kept[1]]
        else:
            top, left = resizing.offset[0], resizing.offset[1]
            image = tf.image.resize(image, resizing.scaled_size)[top : top + height, left : left + width]
        return self.normalize(self._padded(image)) if self.pads_levels else self._padded(self.normalize(image))

    def _padded(self, image: tf.Tensor) -> tf.Tensor:
        """Pads a picture with zeros to the input size."""
        height, width = self.input_size
        shape = tf.shape(image)
        image = tf.pad(image, [[0, height - shape[0]], [0, width - shape[1]], [0, 0]])
        return tf.ensure_shape(image, [height, width, 3])

    def normalize(self, image: tf.Tensor) -> tf.Tensor:
        """Computes (image / 255 - mean) / stddev: float32 [..., width, 3]."""
        # Subtract repeated constants from whole rows: broadcasting along a last axis of 3 takes four times as long.
        shape = tf.shape(image)
        rows = tf.reshape(image, tf.concat([shape[:-2], [shape[-2] * 3]], axis=0))

        def repeated(channels: tuple[float, ...], unit: float = 1.0) -> tf.Tensor:
            return tf.tile(tf.constant(channels, tf.float32) * unit, shape[-2:-1])

        if self.antialias:
            # Rounded like the fractions of 255 and the quotients that the original implementation computes in float32.
            # A quotient in float64 stays the same if a compiler multiplies by the reciprocal instead.
            differences = tf.cast(tf.cast(rows, tf.float64) * (1 / 255), tf.float32) - repeated(self.mean)
            quotients = tf.cast(differences, tf.float64) / tf.cast(repeated(self.stddev), tf.float64)
            normalized = tf.cast(quotients, tf.float32)
        else:
            normalized = (tf.cast(rows, tf.float32) - repeated(self.mean, 255.0)) / repeated(self.stddev, 255.0)
        return tf.ensure_shape(tf.reshape(normalized, shape), image.shape)


def resize_labels(
    labels: tf.Tensor,
    resizing: Resizing,
    input_size: tuple[int, int],
    padding: int,
    classes: tf.Tensor,
    mirrored: tf.Tensor | bool = False,
    truncated: bool = True,
) -> tf.Tensor:
    """Resizes a label map to the network's input with nearest neighbours, and looks up the classes.

    Args:
        labels: uint8 or int32 [height, width], as decoded.
        resizing: the plan of its picture.
        input_size: (height, width) of the result.
        padding: class of the pixels outside the picture.
        classes: int32 [k], the class of each label.
        mirrored: bool scalar, whether to flip the map horizontally before it is resized.
        truncated: whether the resized map has sides that are rounded down, as in the reference, although the picture's
            are rounded. Otherwise its sides are the picture's.

    Returns:
        int32 [*input_size].
    """
    size = tf.shape(labels)[:2]
    scaled = resizing.scaled_size
    if truncated:
        scaled = tf.maximum(tf.cast(resizing.geometry.scale * tf.cast(size, tf.float32), tf.int32), 1)
    step = tf.cast(size, tf.float32) / tf.cast(scaled, tf.float32)

    def sources(axis: int) -> tf.Tensor:
        """Returns the row or column of the map that each row or column of the result is taken from."""
        places = tf.range(resizing.offset[axis], tf.minimum(resizing.offset[axis] + input_size[axis], scaled[axis]))
        nearest = tf.cast(tf.floor((tf.cast(places, tf.float32) + 0.5) * step[axis]), tf.int32)
        return tf.minimum(nearest, size[axis] - 1)

    columns = sources(1)
    columns = tf.where(mirrored, size[1] - 1 - columns, columns)
    # Columns are gathered as rows of the transposed map: copying whole rows is twice as fast as copying single pixels.
    # The map is float32, which represents labels exactly, because oneDNN transposes no other type and logs an error for
    # each. The cast is before the first gather, because TensorFlow would move it from just before the transposition to
    # after it.
    rows = tf.gather(tf.cast(labels, tf.float32), sources(0))
    taken = tf.transpose(tf.gather(tf.transpose(rows), columns))
    found = tf.gather(classes, tf.cast(taken, tf.int32))
    shape = tf.shape(found)
    paddings = [[0, input_size[0] - shape[0]], [0, input_size[1] - shape[1]]]
    return tf.ensure_shape(tf.pad(found, paddings, constant_values=padding), input_size)
