"""The network's input of a training example as a picture, for drawings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from panoptic_cli.pipeline.preprocessing import Geometry, Preprocessing

_PADDING = (70, 70, 70)


def input_picture(batch: Mapping[str, Any], preprocessing: Preprocessing) -> tuple[np.ndarray, np.ndarray]:
    """Undoes the normalisation of the only example of a batch of `training_dataset`, given as NumPy arrays.

    Returns:
        uint8 [height, width, 3], black in the padding, and bool [height, width], True for the picture.
    """
    normalized = batch["images"][0]
    geometry = Geometry(*(value[0] for value in batch["geometry"]))
    mean, stddev = np.array(preprocessing.mean, np.float32), np.array(preprocessing.stddev, np.float32)
    values = (normalized * stddev + mean) * np.float32(255)
    rows, columns = np.rint(geometry.original_size * geometry.scale - geometry.offset).astype(int)
    inside = np.zeros(normalized.shape[:2], bool)
    inside[:rows, :columns] = True
    return np.where(inside[..., None], np.clip(np.rint(values), 0, 255), 0).astype(np.uint8), inside


def fill_padding(picture: Image.Image, inside: np.ndarray) -> Image.Image:
    """Returns a drawing with a dark grey padding.

    Args:
        picture: the drawing, enlarged by a whole number.
        inside: see `input_picture`.
    """
    scale = picture.height // inside.shape[0]
    pixels = np.asarray(picture).copy()
    pixels[np.kron(~inside, np.ones((scale, scale), bool))] = _PADDING
    return Image.fromarray(pixels)
