"""The figures of each category, side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from panoptic_cli.categories import CategoryTable


def category_figures(
    panoptic: Mapping[str, Any],
    table: CategoryTable,
    box: Mapping[int, float | None] | None = None,
    mask: Mapping[int, float | None] | None = None,
) -> dict[int, dict[str, Any]]:
    """Puts panoptic quality and average precision of each category together.

    Args:
        panoptic: see PanopticQuality.result.
        table: the categories.
        box: {category id: AP of its boxes}; None if it was not measured.
        mask: likewise of its masks.

    Returns:
        {category id: {"name", "isthing" (0 or 1), "pq", "sq", "rq", and with `box` and `mask` "box_AP" and "mask_AP"}}
        in the order of `panoptic`; figures in 0..1. Those of segments are None if the category is neither in the ground
        truth nor predicted, AP if there is no object to find, and that of stuff always.
    """
    measured = {name: found for name, found in (("box_AP", box), ("mask_AP", mask)) if found is not None}
    figures = {}
    for identifier, quality in panoptic["per_class"].items():
        category = table.by_id[int(identifier)]
        occurs = quality["tp"] + quality["fp"] + quality["fn"] > 0
        figures[category.id] = {
            "name": category.name,
            "isthing": int(category.isthing),
            **{key: quality[key] if occurs else None for key in ("pq", "sq", "rq")},
            **{name: found.get(category.id) if category.isthing else None for name, found in measured.items()},
        }
    return figures
