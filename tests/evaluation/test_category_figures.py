"""Panoptic quality and average precision of each category, side by side."""

from __future__ import annotations

import numpy as np

from panoptic_cli.categories import CategoryTable
from panoptic_cli.evaluation.category_figures import category_figures
from panoptic_cli.evaluation.panoptic_quality import PanopticQuality
from panoptic_cli.results.prediction import Segment

TABLE = CategoryTable.from_list(
    [
        {"id": 7, "name": "cat", "isthing": 1},
        {"id": 3, "name": "dog", "isthing": 1},
        {"id": 200, "name": "sky", "isthing": 0},
    ],
    "test",
)


def test_figures_of_a_picture_with_a_cat_and_sky() -> None:
    quality = PanopticQuality(TABLE)
    truth = np.array([[1, 1, 2, 2]])
    quality.add(truth, [Segment(1, 7), Segment(2, 200)], truth, [Segment(1, 7), Segment(2, 200)])
    perfect = dict.fromkeys(("pq", "sq", "rq"), 1.0)
    absent = dict.fromkeys(("pq", "sq", "rq"))
    # Object files may call stuff an object; a category that they do not have is not in the figures.
    figures = category_figures(quality.result(), TABLE, {7: 0.5, 3: None, 200: 0.25}, {7: 0.0})
    assert figures == {
        7: {"name": "cat", "isthing": 1, **perfect, "box_AP": 0.5, "mask_AP": 0.0},
        3: {"name": "dog", "isthing": 1, **absent, "box_AP": None, "mask_AP": None},
        200: {"name": "sky", "isthing": 0, **perfect, "box_AP": None, "mask_AP": None},
    }
    assert list(figures) == list(quality.result()["per_class"])
    without = category_figures(quality.result(), TABLE)
    assert without[7] == {"name": "cat", "isthing": 1, **perfect}
