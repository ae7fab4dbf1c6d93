"""COCO's run lengths of masks in TensorFlow; `images.run_lengths` reads the same in NumPy."""

from __future__ import annotations

import tensorflow as tf


def window_runs(columns: tf.Tensor, window: tf.Tensor, height: tf.Tensor, width: tf.Tensor) -> tf.Tensor:
    """Encodes a mask that is empty outside a window.

    Args:
        columns: bool [columns, rows], the mask in its window, transposed.
        window: int32 [4], the window's first row and column, and the row and column after its last.
        height: int32 scalar, the height of the picture.
        width: int32 scalar, likewise.

    Returns:
        int32 [runs], the lengths of alternating runs of 0 and 1, starting with 0, in column-major order.
    """
    # The window's columns at full height, one after the other.
    strip = tf.pad(columns, [[0, 0], [window[0], height - window[2]]])
    strip = tf.pad(tf.reshape(strip, [-1]), [[1, 1]])
    turns = tf.cast(tf.where(strip[1:] != strip[:-1])[:, 0], tf.int32) + window[1] * height
    ends = tf.concat([[0], turns, [height * width]], axis=0)
    found = ends[1:] - ends[:-1]
    # If the last pixel is inside, drop the empty run at the end.
    return found[: tf.size(found) - tf.cast((tf.size(found) > 1) & (found[-1] == 0), tf.int32)]


def box_of_runs(runs: tf.Tensor, height: tf.Tensor) -> tf.Tensor:
    """Returns the box of a mask.

    Args:
        runs: int32 [runs], as `window_runs` returns them; all but the first are positive.
        height: int32 scalar, the height of the picture.

    Returns:
        int32 [4], (y1, x1, y2, x2) in pixels, the last two exclusive; zeros if the mask is empty.
    """
    ends = tf.cumsum(runs)[1::2]
    starts, lasts = ends - runs[1::2], ends - 1

    def box() -> tf.Tensor:
        left, right = starts[0] // height, lasts[-1] // height + 1
        top, bottom = tf.reduce_min(starts % height), tf.reduce_max(lasts % height) + 1
        # A run that goes on in the next column has the last row of one and the first row of the other.
        continues = tf.reduce_any(starts // height != lasts // height)
        return tf.stack([tf.where(continues, 0, top), left, tf.where(continues, height, bottom), right])

    return tf.cond(tf.size(ends) > 0, box, lambda: tf.zeros([4], tf.int32))
