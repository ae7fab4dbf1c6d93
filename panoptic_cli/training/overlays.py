"""A few predictions drawn over validation pictures, always the same ones."""

from __future__ import annotations

import numpy as np
import tensorflow as tf
from PIL import Image

from panoptic_cli.images.drawing import draw_panoptic
from panoptic_cli.inference.predictor import Predictor
from panoptic_cli.pipeline.batches import evaluation_dataset
from panoptic_cli.pipeline.preprocessing import decode_image
from panoptic_cli.records import schema

_PICTURES = 4
_LONGEST_SIDE = 640  # pixels; event files grow by every picture at every evaluation


def draw_overlays(predictor: Predictor, pattern: str, count: int = _PICTURES) -> list[Image.Image]:
    """Draws the predictions of the first pictures of some records.

    Args:
        predictor: the network.
        pattern: validation records.
        count: how many pictures.

    Returns:
        RGB pictures, fewer where there are fewer records.
    """
    drawn = []
    model = predictor.model.experiment.task.model
    for images, info, serialized in evaluation_dataset(pattern, model, batch_size=1, limit=count):
        (prediction,) = predictor(images, info)
        (encoded,) = schema.decode_example(serialized[0].numpy())[schema.IMAGE_ENCODED]
        pixels = decode_image(tf.constant(encoded)).numpy()
        scores = {place + 1: float(score) for place, score in enumerate(prediction.scores)}
        overlay = draw_panoptic(
            pixels.astype(np.uint8), prediction.category_map, prediction.instance_map, predictor.table, scores=scores
        )
        overlay.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
        drawn.append(overlay)
    return drawn
