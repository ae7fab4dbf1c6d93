"""Anchors (arXiv 1506.01497) on every level of the pyramid, as constants."""

from __future__ import annotations

import numpy as np

from panoptic_cli.config.panoptic_fpn import Anchor


def anchor_boxes(config: Anchor, image_size: tuple[int, int], min_level: int, max_level: int) -> dict[int, np.ndarray]:
    """Computes the anchors of an image.

    Args:
        config: sizes, scales and aspect ratios (width / height).
        image_size: (height, width) of the network's input, multiples of 2^max_level.
        min_level: lowest level of the pyramid.
        max_level: highest level of the pyramid.

    Returns:
        {level: float32 [height / 2^level, width / 2^level, anchors per location, 4]}, boxes centred on the cells.
        The anchors of a location are ordered by scale, then by aspect ratio.
    """
    height, width = image_size
    levels: dict[int, np.ndarray] = {}
    for level in range(min_level, max_level + 1):
        stride = 2**level
        halves = []  # float32 throughout, as in the reference, so that they are equal to the last bit
        for scale in range(config.num_scales):
            size = np.float32(stride * 2 ** (scale / config.num_scales) * config.anchor_size)
            for ratio in config.aspect_ratios:
                halves.append((size * np.float32(ratio**-0.5) / 2, size * np.float32(ratio**0.5) / 2))
        half = np.asarray(halves, np.float32)
        y = np.arange(stride / 2, height, stride, dtype=np.float32)
        x = np.arange(stride / 2, width, stride, dtype=np.float32)
        centre = np.stack(np.meshgrid(y, x, indexing="ij"), axis=-1)[:, :, None, :]
        levels[level] = np.concatenate([centre - half, centre + half], axis=-1).astype(np.float32)
    return levels


def anchors_per_place(config: Anchor) -> int:
    """Returns the number of anchors at each location of a level."""
    return config.num_scales * len(config.aspect_ratios)
