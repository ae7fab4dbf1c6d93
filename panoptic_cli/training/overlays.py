"""Predictions drawn over a few validation pictures, always the same ones."""

from __future__ import annotations

import tensorflow as tf
from PIL import Image

from panoptic_cli.images.drawing import draw_panoptic
from panoptic_cli.inference.predictor import Predictor
from panoptic_cli.pipeline.batches import evaluation_dataset
from panoptic_cli.records import schema

_PICTURES = 4
_LONGEST_SIDE = 640  # pixels; every evaluation adds the pictures to the event file


def draw_overlays(predictor: Predictor, pattern: str) -> list[Image.Image]:
    """Draws the predictions for the first few records.

    Args:
        predictor: the network.
        pattern: validation records.

    Returns:
        RGB pictures, at most `_PICTURES`.
    """
    drawn = []
    dataset = evaluation_dataset(pattern, predictor.preprocessing, batch_size=1, limit=_PICTURES)
    for images, geometry, serialized in dataset:
        (encoded,) = schema.decode_example(serialized[0].numpy())[schema.IMAGE_ENCODED]
        pixels = predictor.preprocessing.decode(tf.constant(encoded)).numpy()
        (prediction,) = predictor.predict_prepared(images, geometry)
        scores = dict(enumerate(prediction.detections.scores.tolist(), start=1))
        overlay = draw_panoptic(
            pixels, prediction.category_map, prediction.instance_map, predictor.table, scores=scores
        )
        overlay.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
        drawn.append(overlay)
    return drawn
