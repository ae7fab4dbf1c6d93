"""Pixels that the network's outputs decide, as opposed to rounding."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from panoptic_cli.inference.predictor import Predictor
from panoptic_cli.models.panoptic_fpn.masks import paste
from panoptic_cli.pipeline.preprocessing import Geometry

# Kernels add in other orders in other batches: float32 sums of some thousand terms differ by about a millionth.
_ROUNDING = 1e-5


def decided_in_picture(predictor: Predictor, pixels: np.ndarray) -> np.ndarray:
    """Returns the decided pixels of a picture, uint8 [height, width, 3], with the predictor's thresholds."""
    image, geometry = predictor.preprocessing.prepare(tf.constant(pixels))
    (outputs,) = predictor.run(image[None], Geometry(*(x[None] for x in geometry)))
    fusion = predictor.model.experiment.task.model.panoptic_segmentation_generator
    decided = decided_pixels(outputs, geometry, predictor.score_threshold, fusion.mask_binarize_threshold)
    assert decided.mean() > 0.999
    return decided


def decided_pixels(
    outputs: Mapping[str, np.ndarray], geometry: Geometry, score_threshold: float, mask_threshold: float
) -> np.ndarray:
    """Returns which pixels cannot change their segment by rounding, bool [height, width].

    The best class of such a pixel is ahead of the second, and no mask is at its threshold there.

    Args:
        outputs: the network's outputs for one picture.
        geometry: of the picture.
        score_threshold: detections above it are placed.
        mask_threshold: pixels above it belong to a mask.
    """
    logits, scale = outputs["semantic_logits"], np.asarray(geometry.scale)
    height, width = np.asarray(geometry.original_size).astype(int)
    resized = np.ceil(np.asarray(geometry.input_size) / scale).astype(int)
    best = np.sort(tf.image.resize(logits, resized, method="bilinear").numpy()[:height, :width], axis=-1)
    decided = best[..., -1] - best[..., -2] > _ROUNDING * np.abs(logits).max()
    window = tf.constant([0, 0, height, width], tf.int32)
    for place in np.flatnonzero(outputs["detection_scores"] > score_threshold):
        box = tf.constant(outputs["detection_boxes"][place] / np.tile(scale, 2), tf.float32)
        values = paste(tf.constant(outputs["detection_masks"][place]), box, window)
        decided &= np.abs(values - mask_threshold) > _ROUNDING
    return decided
