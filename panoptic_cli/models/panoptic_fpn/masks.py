"""Pasting the mask head's small masks at the picture's own size, and encoding them as run lengths."""

from __future__ import annotations

import tensorflow as tf

from panoptic_cli.models.run_lengths import window_runs


def source_positions(
    start: tf.Tensor, size: tf.Tensor, cells: tf.Tensor, first: tf.Tensor, last: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Maps the pixels first .. last - 1 of an axis to `cells` cells that cover start .. start + size.

    Returns:
        The lower neighbours, int32 (at most cells - 2, so that the upper one is lower + 1), and the weights of the
        upper neighbours, float32.
    """
    pixels = tf.range(first, last)
    cells_float = tf.cast(cells, tf.float32)
    position = (tf.cast(pixels, tf.float32) - start + 0.5) * (cells_float / size) - 0.5
    position = tf.clip_by_value(position, 0.0, cells_float - 1.0)
    lower = tf.clip_by_value(tf.floor(position), 0.0, tf.maximum(cells_float - 2.0, 0.0))
    return tf.cast(lower, tf.int32), position - lower


def paste(mask: tf.Tensor, box: tf.Tensor, window: tf.Tensor) -> tf.Tensor:
    """Samples a mask bilinearly at the pixel centres of a window. Beyond its border cells, the mask is constant.

    Args:
        mask: float32 [m, m], stretched over the box.
        box: float32 [4] (y1, x1, y2, x2) in pixels, with an area.
        window: int32 [4], the first row and column, and the row and column after the last.

    Returns:
        float32 [rows, columns], the size of the window.
    """
    cells_y, cells_x = tf.shape(mask)[0], tf.shape(mask)[1]
    y, weight_y = source_positions(box[0], box[2] - box[0], cells_y, window[0], window[2])
    x, weight_x = source_positions(box[1], box[3] - box[1], cells_x, window[1], window[3])
    weight_y, weight_x = weight_y[:, None], weight_x[None, :]
    rows0, rows1 = tf.gather(mask, y), tf.gather(mask, y + 1)
    return (
        tf.gather(rows0, x, axis=1) * ((1.0 - weight_y) * (1.0 - weight_x))
        + tf.gather(rows0, x + 1, axis=1) * ((1.0 - weight_y) * weight_x)
        + tf.gather(rows1, x, axis=1) * (weight_y * (1.0 - weight_x))
        + tf.gather(rows1, x + 1, axis=1) * (weight_y * weight_x)
    )


def mask_runs(
    masks: tf.Tensor, boxes: tf.Tensor, height: tf.Tensor, width: tf.Tensor, threshold: float
) -> tf.RaggedTensor:
    """Pastes masks at the picture's size and encodes each as COCO's run lengths.

    A pixel belongs to a mask if the bilinear sample at its centre, with zeros around the mask, exceeds the
    threshold, as in the reference's evaluation of mask AP.

    Args:
        masks: float32 [n, m, m], probabilities within the boxes.
        boxes: float32 [n, 4] (y1, x1, y2, x2) in pixels; they may extend beyond the picture.
        height: int32 scalar, the height of the picture.
        width: int32 scalar, likewise.
        threshold: 0..1.

    Returns:
        int32 [n, (runs)], the lengths of alternating runs of 0 and 1, starting with 0, in column-major order. A box
        without area, or one that is not finite, gives an empty mask.
    """
    count = tf.shape(masks)[0]
    # Add a ring of zeros around the mask, so that its box grows by one cell on each side.
    ringed = tf.pad(masks, [[0, 0], [1, 1], [1, 1]])
    cell = (boxes[:, 2:] - boxes[:, :2]) / tf.cast(tf.shape(masks)[1:], tf.float32)
    grown = tf.concat([boxes[:, :2] - cell, boxes[:, 2:] + cell], axis=1)
    usable = tf.reduce_all(tf.math.is_finite(boxes), axis=1) & tf.reduce_all(cell > 0.0, axis=1)
    grown = tf.where(usable[:, None], grown, tf.constant([0.0, 0.0, 1.0, 1.0]))
    limits = tf.cast(tf.stack([height, width, height, width]), tf.float32)
    edges = tf.concat([tf.floor(grown[:, :2]), tf.math.ceil(grown[:, 2:])], axis=1)
    windows = tf.cast(tf.clip_by_value(edges, 0.0, limits), tf.int32)
    ringed = tf.where(usable[:, None, None], ringed, 0.0)

    def encode(i: tf.Tensor, runs: tf.TensorArray, lengths: tf.TensorArray) -> tuple[tf.Tensor, ...]:
        window = windows[i]
        inside = paste(ringed[i], grown[i], window) > threshold
        found = window_runs(tf.transpose(inside), window, height, width)
        return i + 1, runs.write(i, found), lengths.write(i, tf.size(found))

    runs = tf.TensorArray(tf.int32, count, element_shape=[None], infer_shape=False)
    lengths = tf.TensorArray(tf.int32, count, element_shape=[])
    _, runs, lengths = tf.while_loop(lambda i, *_: i < count, encode, (tf.constant(0), runs, lengths))
    empty = tf.zeros([0], tf.int32)
    values = tf.cond(count > 0, runs.concat, lambda: empty)
    return tf.RaggedTensor.from_row_lengths(values, tf.cast(lengths.stack(), tf.int64), validate=False)
