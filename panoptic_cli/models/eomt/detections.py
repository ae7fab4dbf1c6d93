"""EoMT's detections for box and mask AP, by the rules of the authors' instance evaluation.

A detection is a query with one of the thing classes. Its score is the probability of the class times the mean
probability of the pixels inside its mask; its box is the box of its mask.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from panoptic_cli.models.eomt.mask_resizing import bands, resize
from panoptic_cli.models.run_lengths import box_of_runs, window_runs
from panoptic_cli.pipeline.preprocessing import Geometry


class QueryDetections(NamedTuple):
    """The detections of one picture, best first.

    Attributes:
        queries: int32 [n].
        classes: int32 [n].
        scores: float32 [n], 0..1, descending.
        boxes: float32 [n, 4], (y1, x1, y2, x2) in pixels of the picture.
        masks: ragged int32 [n, (runs)], see `run_lengths.window_runs`.
    """

    queries: tf.Tensor
    classes: tf.Tensor
    scores: tf.Tensor
    boxes: tf.Tensor
    masks: tf.RaggedTensor


class _Masks(NamedTuple):
    """Masks of queries: their runs, boxes float32 [n, 4], areas int32 [n] and mean probabilities float32 [n]."""

    runs: tf.RaggedTensor
    boxes: tf.Tensor
    areas: tf.Tensor
    quality: tf.Tensor


def detect(
    class_logits: tf.Tensor,
    mask_logits: tf.Tensor,
    geometry: Geometry,
    is_thing: tf.Tensor,
    in_map: tf.Tensor,
    most: int,
    mask_logit: float = 0.0,
) -> QueryDetections:
    """Lists the most probable pairs of a query and a thing class.

    Args:
        class_logits: float32 [queries, classes + 1]; the last class is "no object".
        mask_logits: float32 [queries, h, w], over the whole input of the network.
        geometry: the geometry of the picture.
        is_thing: bool [classes].
        in_map: bool [queries], those that are things in the panoptic map: they are listed in any case, with their most
            probable class.
        most: how many pairs are listed, unless more are in the map. Those whose mask is empty are left out.
        mask_logit: pixels with a greater logit are inside a mask.

    Returns:
        The detections, at most max(`most`, queries).
    """
    probabilities = tf.nn.softmax(class_logits)
    things = tf.cast(tf.where(is_thing)[:, 0], tf.int32)
    of_things = tf.gather(probabilities, things, axis=1)
    best = tf.argmax(probabilities, axis=-1, output_type=tf.int32)
    forced = tf.reshape(in_map[:, None] & (best[:, None] == things), [-1])
    flat = tf.reshape(of_things, [-1])
    count = tf.minimum(tf.maximum(most, tf.math.count_nonzero(in_map, dtype=tf.int32)), tf.size(flat))
    # Probabilities are at most 1, so what is in the map comes first.
    pairs = tf.math.top_k(tf.where(forced, 2.0, flat), count).indices
    of_class = tf.maximum(tf.size(things), 1)
    queries, classes = pairs // of_class, tf.gather(things, pairs % of_class)

    used, place = tf.unique(queries)
    found = _resized_masks(tf.gather(mask_logits, used), geometry, mask_logit)
    scores = tf.gather(flat, pairs) * tf.gather(found.quality, place)
    listed = tf.where(tf.gather(forced, pairs) | (tf.gather(found.areas, place) > 0))[:, 0]
    order = tf.gather(listed, tf.argsort(tf.gather(scores, listed), direction="DESCENDING", stable=True))
    place = tf.gather(place, order)
    return QueryDetections(
        queries=tf.gather(queries, order),
        classes=tf.gather(classes, order),
        scores=tf.gather(scores, order),
        boxes=tf.gather(found.boxes, place),
        masks=tf.gather(found.runs, place),
    )


def _resized_masks(logits: tf.Tensor, geometry: Geometry, mask_logit: float) -> _Masks:
    """Resizes masks, float32 [n, h, w], to the picture, one after the other, each in the window that it can reach."""
    size = tf.cast(geometry.original_size, tf.int32)
    rows, columns = (bands(geometry, tf.shape(logits)[1 + axis], axis, size[axis]) for axis in range(2))
    by_row, by_column = rows.weights[0], columns.weights[0]
    # Without the cells of the padding.
    logits = logits[:, : tf.shape(by_row)[1], : tf.shape(by_column)[1]]

    def reached(weights: tf.Tensor, cells: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the pixels that some cells, bool [cells], contribute to, and all cells that these depend on."""
        pixels = tf.where(tf.linalg.matvec(weights, tf.cast(cells, tf.float32)) > 0.0)[:, 0]
        window = tf.cast(tf.stack([pixels[0], pixels[-1] + 1]), tf.int32)
        sources = tf.where(tf.reduce_any(tf.gather(weights, [window[0], window[1] - 1]) > 0.0, axis=0))[:, 0]
        return window, tf.cast(tf.stack([sources[0], sources[-1] + 1]), tf.int32)

    def encode(mask: tf.Tensor) -> _Masks:
        above = mask > mask_logit
        (y, v), (x, u) = reached(by_row, tf.reduce_any(above, 1)), reached(by_column, tf.reduce_any(above, 0))
        # Transposed, because runs go down the columns.
        cells = tf.transpose(mask[v[0] : v[1], u[0] : u[1]])[:, None]
        values = resize(cells, by_column[x[0] : x[1], u[0] : u[1]], by_row[y[0] : y[1], v[0] : v[1]])[:, 0]
        inside = values > mask_logit
        runs = window_runs(inside, tf.stack([y[0], x[0], y[1], x[1]]), size[0], size[1])
        area = tf.reduce_sum(runs[1::2])
        total = tf.reduce_sum(tf.where(inside, tf.sigmoid(values), 0.0))
        # The authors add the small number.
        quality = total / (tf.cast(area, tf.float32) + 1e-6)
        return _Masks(runs, tf.cast(box_of_runs(runs, size[0]), tf.float32), area, quality)

    def empty() -> _Masks:
        return _Masks(tf.reshape(size[0] * size[1], [1]), tf.zeros([4]), tf.constant(0), tf.constant(0.0))

    specs = _Masks(
        tf.RaggedTensorSpec([None], tf.int32, ragged_rank=0),
        tf.TensorSpec([4], tf.float32),
        tf.TensorSpec([], tf.int32),
        tf.TensorSpec([], tf.float32),
    )

    def one(mask: tf.Tensor) -> _Masks:
        return tf.cond(tf.reduce_any(mask > mask_logit), lambda: encode(mask), empty)

    return tf.map_fn(one, logits, fn_output_signature=specs)
