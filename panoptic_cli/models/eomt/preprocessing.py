"""How pictures are prepared for EoMT."""

from __future__ import annotations

from panoptic_cli.config.eomt import Eomt
from panoptic_cli.pipeline.preprocessing import Preprocessing


def preprocessing_of(config: Eomt) -> Preprocessing:
    """Returns the authors' preprocessing, which equals Pillow's decoding and resizing."""
    size = (config.image_size, config.image_size)
    return Preprocessing(size, antialias=True, pads_levels=True, accurate_jpeg=True)
