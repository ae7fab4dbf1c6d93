"""Geometries from the arrays in which the reference keeps them."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from panoptic_cli.pipeline.preprocessing import Geometry


def geometry_of(image_info: Any) -> Geometry:
    """Converts image_info, [..., 4, 2] with the rows original size, input size, scale and offset, to tensors."""
    rows = np.moveaxis(np.asarray(image_info, np.float32), -2, 0)
    return Geometry(*(tf.constant(row) for row in rows))


def image_info_of(geometry: Geometry) -> np.ndarray:
    """Inverts `geometry_of`: float32 [..., 4, 2]."""
    return np.stack([np.asarray(row) for row in geometry], axis=-2)
