"""Augmentation of one picture and its annotations: flip, scale jitter and crop."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from panoptic_cli.config.schema import Parser
from panoptic_cli.pipeline.parsing import AnnotatedPicture
from panoptic_cli.pipeline.preprocessing import Preprocessing, Resizing

_ATTEMPTS = 100  # to crop a picture so that the crop can be used
# Independent random streams of one picture. The targets of a model family may use those from FREE_STREAM on.
_FLIP, _SCALE, _OFFSET, FREE_STREAM = range(4)


class AugmentedPicture(NamedTuple):
    """A picture as the network gets it, and its stored annotations with the values needed to transform them.

    Attributes:
        image: float32 [*input_size, 3], flipped, resized, cropped, normalised and padded.
        resizing: how the flipped picture was resized.
        mirrored: bool scalar, whether the picture was flipped horizontally.
        boxes: float32 [n, 4], (y1, x1, y2, x2) in pixels of the input, clipped to it; those without area are dropped.
        category_ids: int64 [n].
        masks: string [n], PNGs of 0 and 1, as stored: neither flipped nor resized.
        labels: string, PNG of each pixel's label, as stored; see `AnnotatedPicture`.
        label_ids: int32 [k], see `AnnotatedPicture`.
        label_is_crowd: bool [k], likewise.
        instances: string, likewise.
        seed: int32 [2], see `random_stream`.
    """

    image: tf.Tensor
    resizing: Resizing
    mirrored: tf.Tensor
    boxes: tf.Tensor
    category_ids: tf.Tensor
    masks: tf.Tensor
    labels: tf.Tensor
    label_ids: tf.Tensor
    label_is_crowd: tf.Tensor
    instances: tf.Tensor
    seed: tf.Tensor

    @property
    def boxes_in_masks(self) -> tf.Tensor:
        """float32 [n, 4], the boxes as fractions of the stored masks; x2 < x1 if the picture was flipped."""
        geometry = self.resizing.geometry
        offset, scale = tf.tile(geometry.offset, [2]), tf.tile(geometry.scale, [2])
        boxes = (self.boxes + offset) / scale / tf.tile(geometry.original_size, [2])
        flipped = tf.stack([boxes[:, 0], 1.0 - boxes[:, 1], boxes[:, 2], 1.0 - boxes[:, 3]], axis=-1)
        return tf.where(self.mirrored, flipped, boxes)


def random_stream(seed: tf.Tensor, number: int) -> tf.Tensor:
    """Returns the seed, int32 [2], of one of a picture's independent streams of random numbers."""
    return seed + tf.constant([0, number], tf.int32) * 1_000_003


def augment(
    record: AnnotatedPicture,
    seed: tf.Tensor,
    preprocessing: Preprocessing,
    parser: Parser,
    accepts: Callable[[AnnotatedPicture, Resizing, tf.Tensor], tf.Tensor] | None = None,
) -> AugmentedPicture:
    """Flips a picture, jitters its scale, crops and pads it.

    Args:
        record: the picture and its annotations.
        seed: int64 [2], the seed of the picture; equal seeds give equal results.
        preprocessing: the preprocessing of the model family.
        parser: which augmentations to make, and whether to drop crowds.
        accepts: whether a crop of the record can be used, a bool scalar; the last argument is whether it is mirrored.
            Others are drawn again, up to 100 times. None: all can be.
    """
    seed = tf.cast(seed, tf.int32)
    image, boxes, category_ids, masks = record.image, record.boxes, record.category_ids, record.masks
    if parser.skip_crowd_during_training:
        boxes, category_ids, masks = (tf.boolean_mask(x, ~record.is_crowd) for x in (boxes, category_ids, masks))

    mirrored = tf.constant(False)
    if parser.aug_rand_hflip:
        # Only the picture is flipped as a whole; labels and masks are sampled in the opposite direction.
        mirrored = tf.random.stateless_uniform([], random_stream(seed, _FLIP)) < 0.5
        image = tf.cond(mirrored, lambda: tf.reverse(image, [1]), lambda: image)
        boxes = tf.where(mirrored, _mirror(boxes), boxes)

    size = tf.shape(image)[:2]
    resizing = preprocessing.plan(size)
    if parser.aug_scale_min != 1.0 or parser.aug_scale_max != 1.0:
        resizing = _jitter(size, seed, preprocessing, parser)
        if accepts is not None:
            resizing = _accepted(record, resizing, mirrored, seed, preprocessing, parser, accepts)

    boxes = _to_input(boxes, resizing, preprocessing.input_size)
    kept = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    boxes, category_ids, masks = (tf.boolean_mask(x, kept) for x in (boxes, category_ids, masks))
    return AugmentedPicture(
        image=preprocessing.resize(image, resizing),
        resizing=resizing,
        mirrored=mirrored,
        boxes=boxes,
        category_ids=category_ids,
        masks=masks,
        labels=record.labels,
        label_ids=record.label_ids,
        label_is_crowd=record.label_is_crowd,
        instances=record.instances,
        seed=seed,
    )


def _jitter(size: tf.Tensor, seed: tf.Tensor, preprocessing: Preprocessing, parser: Parser) -> Resizing:
    """Draws a scale and a crop for a picture of a size, int32 [2]."""
    limits = parser.aug_scale_min, parser.aug_scale_max
    scale = tf.random.stateless_uniform([], random_stream(seed, _SCALE), *limits)
    return preprocessing.plan(size, scale, tf.random.stateless_uniform([2], random_stream(seed, _OFFSET)))


def _accepted(
    record: AnnotatedPicture,
    first: Resizing,
    mirrored: tf.Tensor,
    seed: tf.Tensor,
    preprocessing: Preprocessing,
    parser: Parser,
    accepts: Callable[[AnnotatedPicture, Resizing, tf.Tensor], tf.Tensor],
) -> Resizing:
    """Returns the first crop that can be used, or the last that was tried."""

    def again(attempt: tf.Tensor, _: tf.Tensor, __: Resizing) -> tuple[tf.Tensor, tf.Tensor, Resizing]:
        drawn = _jitter(tf.shape(record.image)[:2], seed + tf.stack([attempt, 0]), preprocessing, parser)
        return attempt + 1, accepts(record, drawn, mirrored), drawn

    _, _, resizing = tf.while_loop(
        lambda attempt, accepted, _: ~accepted & (attempt < _ATTEMPTS),
        again,
        (tf.constant(1), accepts(record, first, mirrored), first),
    )
    return resizing


def _to_input(boxes: tf.Tensor, resizing: Resizing, input_size: tuple[int, int]) -> tf.Tensor:
    """Converts boxes [n, 4] from fractions of the picture to pixels of the input, and clips them to it."""
    geometry = resizing.geometry
    original, scale, offset = (tf.tile(x, [2]) for x in (geometry.original_size, geometry.scale, geometry.offset))
    return tf.clip_by_value(boxes * original * scale - offset, 0.0, tf.constant(input_size * 2, tf.float32))


def _mirror(boxes: tf.Tensor) -> tf.Tensor:
    """Flips boxes (y1, x1, y2, x2), [n, 4] in fractions of the picture, horizontally."""
    return tf.stack([boxes[:, 0], 1.0 - boxes[:, 3], boxes[:, 2], 1.0 - boxes[:, 1]], axis=-1)
