"""Drawings of EoMT's training examples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from panoptic_cli.categories import CategoryTable
from panoptic_cli.config.eomt import Eomt
from panoptic_cli.images.drawing import draw_panoptic
from panoptic_cli.inspection.samples import Sample, enlarge
from panoptic_cli.models.eomt.preprocessing import preprocessing_of
from panoptic_cli.models.example_inputs import fill_padding, input_picture


class ExampleDrawer:
    """Draws training examples of EoMT: the segments, each of which is one target.

    Args:
        config: the configuration of the network.
        table: the categories; class i is the i-th of them.
    """

    def __init__(self, config: Eomt, table: CategoryTable) -> None:
        self._preprocessing = preprocessing_of(config)
        self._table = table

    def __call__(self, batch: Mapping[str, Any]) -> Image.Image:
        """Draws the only example of a batch, given as NumPy arrays."""
        image, inside = input_picture(batch, self._preprocessing)
        segments, classes = batch["segment_map"][0], batch["segment_classes"][0]
        count = int(np.count_nonzero(classes >= 0))
        categories = [self._table.categories[number] for number in classes[:count]]
        category_of = np.array([0, *(category.id for category in categories)], np.int32)
        instance_of = np.array([0, *(n if c.isthing else 0 for n, c in enumerate(categories, start=1))], np.int32)
        large = enlarge(Sample("", image, category_of[segments], instance_of[segments]))
        return fill_padding(draw_panoptic(large.image, large.category_map, large.instance_map, self._table), inside)
