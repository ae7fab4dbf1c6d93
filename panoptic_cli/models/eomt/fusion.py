"""EoMT's fusion of queries into one panoptic map, by the rules of the authors' evaluation.

Every pixel goes to the query whose score times mask probability is the highest. A query keeps those that are inside its
own mask, and is dropped if it won too few pixels in comparison with its mask. Queries of one stuff class become one
segment.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from panoptic_cli.models.eomt.detections import detect
from panoptic_cli.models.eomt.mask_resizing import bands, resize
from panoptic_cli.models.segments import Segments, number_segments
from panoptic_cli.pipeline.preprocessing import Geometry

_TILE = (64, 128)  # pixels; whole vectors of the processor, so that equal queries have equal values
_MARGIN = 1e-4  # more than the rounding of probabilities and resized logits, so that bounds hold


class Thresholds(NamedTuple):
    """The thresholds of the fusion, with the names of Hugging Face's configuration.

    Attributes:
        threshold: queries with a higher score are placed, 0..1.
        mask_threshold: probability from which on a pixel is inside a mask, 0..1.
        overlap_mask_area_threshold: least share of pixels won among those inside the mask.
    """

    threshold: float = 0.8
    mask_threshold: float = 0.5
    overlap_mask_area_threshold: float = 0.8

    @property
    def mask_logit(self) -> float:
        """The logit of `mask_threshold`."""
        if not 0.0 < self.mask_threshold < 1.0:
            return -math.inf if self.mask_threshold <= 0.0 else math.inf
        return math.log(self.mask_threshold / (1.0 - self.mask_threshold))


class FusedQueries(NamedTuple):
    """One fused picture.

    Attributes:
        owner: int32 [height, width], the query whose segment a pixel belongs to; -1 for void. Of several queries of one
            stuff class, it is the first.
        scores: float32 [queries], each query's highest probability.
        classes: int32 [queries], the class of it; the number of classes means that there is no object.
    """

    owner: tf.Tensor
    scores: tf.Tensor
    classes: tf.Tensor


def fuse(
    class_logits: tf.Tensor,
    mask_logits: tf.Tensor,
    geometry: Geometry,
    is_thing: tf.Tensor,
    thresholds: Thresholds,
    score_threshold: tf.Tensor | float | None = None,
    tile: tuple[int, int] = _TILE,
) -> FusedQueries:
    """Fuses the queries of one picture at the picture's own size.

    Args:
        class_logits: float32 [queries, classes + 1]; the last class is "no object".
        mask_logits: float32 [queries, h, w], over the whole input of the network.
        geometry: the geometry of the picture.
        is_thing: bool [classes].
        thresholds: see there.
        score_threshold: used instead of `thresholds.threshold`.
        tile: (height, width) of the parts that are computed at once; it bounds the memory.

    Returns:
        The map.
    """
    probabilities = tf.nn.softmax(class_logits)
    scores = tf.reduce_max(probabilities, axis=-1)
    classes = tf.argmax(probabilities, axis=-1, output_type=tf.int32)
    threshold = thresholds.threshold if score_threshold is None else score_threshold
    placed = tf.where((classes < tf.size(is_thing)) & (scores > threshold))[:, 0]
    size = tf.cast(geometry.original_size, tf.int32)

    def place() -> tf.Tensor:
        masks = tf.gather(mask_logits, placed)
        winners, won, original, final = _place(masks, tf.gather(scores, placed), geometry, thresholds.mask_logit, tile)
        share = tf.cast(won, tf.float64) / tf.cast(original, tf.float64)
        kept = (won > 0) & (original > 0) & (final > 0) & ~(share < thresholds.overlap_mask_area_threshold)
        labels = tf.gather(classes, placed)
        number = tf.range(tf.size(labels))
        same = (labels[:, None] == labels) & kept & ~tf.gather(is_thing, labels)[:, None]
        first = tf.where(tf.reduce_any(same, axis=1), tf.argmax(same, axis=1, output_type=tf.int32), number)
        owners = tf.where(kept, tf.gather(tf.cast(placed, tf.int32), first), -1)
        return tf.gather(tf.concat([owners, [-1]], axis=0), winners)

    owner = tf.cond(tf.size(placed) > 0, place, lambda: tf.fill(size, -1))
    return FusedQueries(tf.ensure_shape(owner, [None, None]), scores, classes)


def _place(
    masks: tf.Tensor, scores: tf.Tensor, geometry: Geometry, mask_logit: float, tile: tuple[int, int]
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
    """Gives every pixel to the mask with the highest score times probability, the first of equal ones.

    Args:
        masks: float32 [n, h, w], logits; n is at least 1.
        scores: float32 [n].
        geometry: the geometry of the picture.
        mask_logit: logit from which on a pixel is inside a mask.
        tile: see `fuse`.

    Returns:
        int32 [height, width], the index of the mask; n where the pixel is outside of it. Then int32 [n] each: the
        pixels that each mask won, those inside it, and those that are both.
    """
    count = tf.size(scores)
    size = tf.cast(geometry.original_size, tf.int32)
    rows = bands(geometry, tf.shape(masks)[1], 0, tile[0])
    columns = bands(geometry, tf.shape(masks)[2], 1, tile[1])
    across = tf.size(columns.first)
    by_row = tf.transpose(masks, [1, 0, 2])

    def place(number: tf.Tensor) -> tuple[tf.Tensor, ...]:
        row, column = number // across, number % across
        top, left = rows.first[row], columns.first[column]
        cells = by_row[top : top + tf.shape(rows.weights)[2], :, left : left + tf.shape(columns.weights)[2]]
        low, high = tf.reduce_min(cells, axis=[0, 2]), tf.reduce_max(cells, axis=[0, 2])
        # A resized logit lies between the lowest and the highest of its cells. So most masks can be settled as a whole:
        # they cannot win here, and the tile lies outside or inside of them.
        least = tf.reduce_max(scores * tf.sigmoid(low))
        loses = scores * tf.sigmoid(high) < least - _MARGIN
        outside, inside = high < mask_logit - _MARGIN, low > mask_logit + _MARGIN
        open_masks = tf.where(~(loses & (outside | inside)))[:, 0]
        height, width = tf.minimum(tile[0], size[0] - row * tile[0]), tf.minimum(tile[1], size[1] - column * tile[1])

        logits = resize(tf.gather(cells, open_masks, axis=1), rows.weights[row], columns.weights[column])
        values = tf.gather(scores, open_masks)[:, None] * tf.sigmoid(logits)
        best = tf.reduce_max(values, axis=1, keepdims=True)
        places = tf.range(tf.size(open_masks))[:, None]
        # Not argmax, which does not promise the first of equal values.
        winner = tf.reduce_min(tf.where(values == best, places, tf.size(open_masks) - 1), axis=1)[:height, :width]
        is_inside = logits[:height, :, :width] >= mask_logit
        of_winner = _at(is_inside, winner)
        winner = tf.gather(tf.cast(open_masks, tf.int32), winner)

        def tally(indices: tf.Tensor) -> tf.Tensor:
            return tf.math.bincount(tf.reshape(indices, [-1]), minlength=count + 1, maxlength=count + 1)[:count]

        original = tf.where(inside, height * width, 0)
        counted = tf.reduce_sum(tf.cast(is_inside, tf.int32), axis=[0, 2])
        original = tf.tensor_scatter_nd_update(original, open_masks[:, None], counted)
        final = tf.where(of_winner, winner, count)
        padding = [[0, tile[0] - height], [0, tile[1] - width]]
        return tf.pad(final, padding), tally(winner), original, tally(final)

    tiles = tf.size(rows.first) * across
    map_spec, count_spec = tf.TensorSpec(tile, tf.int32), tf.TensorSpec([None], tf.int32)
    specs = (map_spec, count_spec, count_spec, count_spec)
    found, *counts = tf.map_fn(place, tf.range(tiles), fn_output_signature=specs)
    whole = tf.transpose(tf.reshape(found, [-1, across, *tile]), [0, 2, 1, 3])
    whole = tf.reshape(whole, [-1, across * tile[1]])[: size[0], : size[1]]
    won, original, final = (tf.reduce_sum(x, axis=0) for x in counts)
    return whole, won, original, final


def _at(values: tf.Tensor, index: tf.Tensor) -> tf.Tensor:
    """Selects values[y, index[y, x], x] from [height, n, width]."""
    shape = tf.shape(values)
    line = tf.range(shape[0])[:, None] * shape[1] + index
    return tf.gather(tf.reshape(values, [-1]), line * shape[2] + tf.range(shape[2]))


class Fusion:
    """Turns the network's outputs for one picture into segments and detections.

    Args:
        category_ids: [classes], the category of each class.
        is_thing: [classes], whether it is a thing.
        thresholds: of the panoptic map; None: the authors'.
        num_detections: how many detections are listed, unless more things are in the map.

    Attributes:
        num_detections: see above.
    """

    def __init__(
        self,
        category_ids: Sequence[int],
        is_thing: Sequence[bool],
        thresholds: Thresholds | None = None,
        num_detections: int = 100,
    ) -> None:
        self._category_ids = np.array(category_ids, np.int32)
        self._is_thing = np.array(is_thing, bool)
        self._thresholds = thresholds or Thresholds()
        self.num_detections = num_detections

    def describe(self) -> dict[str, Any]:
        """Returns the settings by name."""
        return {**self._thresholds._asdict(), "num_detections": self.num_detections}

    def __call__(
        self,
        class_logits: tf.Tensor,
        mask_logits: tf.Tensor,
        geometry: Geometry,
        score_threshold: tf.Tensor | float | None = None,
    ) -> Segments:
        """Fuses one picture, numbers its segments and lists its detections.

        Args:
            class_logits: [queries, classes + 1]; the last class is "no object".
            mask_logits: [queries, h, w], over the whole input of the network.
            geometry: the geometry of the picture.
            score_threshold: queries with a higher score become segments; None: as configured.
        """
        class_logits, mask_logits = (tf.cast(x, tf.float32) for x in (class_logits, mask_logits))
        is_thing = tf.constant(self._is_thing)
        fused = fuse(class_logits, mask_logits, geometry, is_thing, self._thresholds, score_threshold)
        count = tf.size(fused.classes)
        owner = tf.where(fused.owner < 0, count, fused.owner)  # void is the last place of a table
        pixels = tf.math.bincount(tf.reshape(owner, [-1]), minlength=count + 1, maxlength=count + 1)[:count]
        in_map = (pixels > 0) & tf.gather(tf.concat([is_thing, [False]], axis=0), fused.classes)
        logit = self._thresholds.mask_logit
        found = detect(class_logits, mask_logits, geometry, is_thing, in_map, self.num_detections, logit)

        ids = tf.concat([tf.constant(self._category_ids), [0]], axis=0)
        category_ids = tf.gather(ids, found.classes)
        # Of the pairs of a query in the map, the one with its own class is its detection.
        own = tf.gather(in_map, found.queries) & (found.classes == tf.gather(fused.classes, found.queries))
        places = tf.where(own, tf.range(1, tf.size(own) + 1), 0)
        detection_of_query = tf.tensor_scatter_nd_max(tf.zeros([count], tf.int32), found.queries[:, None], places)
        segment_map, segment_ids, detections, areas = number_segments(
            tf.gather(tf.concat([tf.gather(ids, fused.classes), [0]], axis=0), owner),
            tf.gather(tf.concat([detection_of_query, [0]], axis=0), owner),
            category_ids,
            self._category_ids[~self._is_thing].tolist(),
        )
        return Segments(
            segment_map=segment_map,
            category_ids=segment_ids,
            detection_of_segment=detections,
            areas=areas,
            boxes=found.boxes,
            scores=found.scores,
            detection_category_ids=category_ids,
            masks=found.masks,
            semantic_map=None,
        )
