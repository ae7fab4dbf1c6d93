"""ROI align over a feature pyramid (arXiv 1703.06870, section 3; level choice of arXiv 1612.03144, section 4.2)."""

from __future__ import annotations

import tensorflow as tf

_CANONICAL_SIZE = 224.0  # a box with sides of this length belongs to level 4


def roi_levels(boxes: tf.Tensor, min_level: int, max_level: int) -> tf.Tensor:
    """Chooses the pyramid level of each box by its size.

    Args:
        boxes: float32 [..., 4] in pixels.
        min_level: lowest level.
        max_level: highest level.

    Returns:
        float32 [...], whole: floor(4 + log2(sqrt(area) / 224)), clamped to the levels; boxes without area go to the
        lowest.
    """
    side = tf.sqrt((boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1]))
    # Logarithms and floor division are exactly the reference's, so that boxes at a limit go to the same level.
    level = tf.math.floordiv(tf.math.log(side / _CANONICAL_SIZE), tf.math.log(2.0)) + 4.0
    return tf.clip_by_value(tf.where(side > 0.0, level, float(min_level)), float(min_level), float(max_level))


def roi_align(
    features: dict[int, tf.Tensor],
    boxes: tf.Tensor,
    crop_size: int,
    sample_offset: float = 0.5,
    index_dtype: tf.DType = tf.int32,
) -> tf.Tensor:
    """Crops a feature window of fixed size for each box, from the level that fits the box.

    One bilinear sample is taken in each of crop_size x crop_size cells, `sample_offset` of the way into it. It
    uses only static shapes and gathers, so it compiles under XLA.

    Args:
        features: {level: [batch, height / 2^level, width / 2^level, channels]} of consecutive levels.
        boxes: float32 [batch, n, 4] in pixels of the network's input, within it.
        crop_size: number of cells along a side.
        sample_offset: where in a cell to sample, 0..1.
        index_dtype: int32, or int64 for GPUs: there, TensorFlow computes with int32 on the host.

    Returns:
        [batch, n, crop_size, crop_size, channels] in the features' dtype.
    """
    levels = sorted(features)
    shapes = [tf.shape(features[level]) for level in levels]
    batch, channels = shapes[0][0], features[levels[0]].shape[-1]
    flat = tf.concat([tf.reshape(features[level], [batch, -1, channels]) for level in levels], axis=1)
    first = tf.cast(tf.range(batch) * tf.shape(flat)[1], index_dtype)[:, None, None, None]
    flat = tf.reshape(flat, [-1, channels])

    # Whole numbers in floats are exact for the places of a picture.
    heights = tf.stack([tf.cast(shape[1], tf.float32) for shape in shapes])
    widths = tf.stack([tf.cast(shape[2], tf.float32) for shape in shapes])
    starts = tf.cumsum(heights * widths, exclusive=True)

    boxes = tf.cast(boxes, tf.float32)
    level = roi_levels(boxes, levels[0], levels[-1])
    scaled = boxes / tf.pow(2.0, level)[..., None]
    index = tf.cast(level - levels[0], tf.int32)
    height, width = tf.gather(heights, index), tf.gather(widths, index)

    # Multiply first and then divide, as the reference does, so that positions are equal to the last bit.
    steps = tf.range(crop_size, dtype=tf.float32) + sample_offset
    y = scaled[..., 0:1] + steps * (scaled[..., 2:3] - scaled[..., 0:1]) / crop_size
    x = scaled[..., 1:2] + steps * (scaled[..., 3:4] - scaled[..., 1:2]) / crop_size

    def neighbours(position: tf.Tensor, size: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        last = size[..., None] - 1.0
        low = tf.minimum(tf.maximum(tf.floor(position), 0.0), last)
        high = tf.minimum(low + 1.0, last)
        # Beyond the last cell, both neighbours are that cell; a weight above 1 would only add rounding errors.
        return low, high, tf.minimum(position - low, 1.0)

    y0, y1, weight_y = neighbours(y, height)
    x0, x1, weight_x = neighbours(x, width)
    start = tf.gather(starts, index)[..., None]
    row0, row1 = start + y0 * width[..., None], start + y1 * width[..., None]
    weight_y = tf.cast(weight_y, flat.dtype)[..., :, None, None]
    weight_x = tf.cast(weight_x, flat.dtype)[..., None, :, None]

    def sample(row: tf.Tensor, column: tf.Tensor) -> tf.Tensor:
        return tf.gather(flat, tf.cast(row[..., :, None] + column[..., None, :], index_dtype) + first)

    top = sample(row0, x0) * (1 - weight_x) + sample(row0, x1) * weight_x
    bottom = sample(row1, x0) * (1 - weight_x) + sample(row1, x1) * weight_x
    return top * (1 - weight_y) + bottom * weight_y


def with_area(boxes: tf.Tensor) -> tf.Tensor:
    """Enlarges empty boxes to a thousandth of a pixel, so that their level needs no logarithm of 0.

    tf2onnx turns tf.where into products, in which an infinity in the branch that is not taken would become NaN.
    """
    first, last = boxes[..., :2], boxes[..., 2:]
    return tf.concat([first, tf.maximum(last, first + 1e-3)], axis=-1)
