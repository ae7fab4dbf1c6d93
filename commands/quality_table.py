"""The result tables that evaluate and demo print, figures in percent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.table import Table

from panoptic_cli import console

if TYPE_CHECKING:
    from panoptic_cli.categories import CategoryTable


def percent(value: float | None) -> str:
    """Formats a figure of 0..1 in percent; "n/a" where there is nothing to measure."""
    return "n/a" if value is None else f"{100 * value:.2f}"


def quality_table(panoptic: Mapping[str, Any]) -> Table:
    """Panoptic, segmentation and recognition quality of all, things and stuff."""
    rows = [
        [name, *(percent(panoptic[name][key]) for key in ("pq", "sq", "rq")), str(int(panoptic[name]["n"]))]
        for name in ("All", "Things", "Stuff")
    ]
    return console.table("Panoptic quality", ["", "PQ", "SQ", "RQ", "classes"], rows)


def average_precision_table(box: Mapping[str, Any], mask: Mapping[str, Any]) -> Table:
    """Average precision of boxes and masks."""
    keys = ("AP", "AP50", "AP75", "APs", "APm", "APl")
    rows = [[name, *(percent(figures[key]) for key in keys)] for name, figures in (("box", box), ("mask", mask))]
    return console.table("Average precision", ["", *keys], rows)


def class_table(panoptic: Mapping[str, Any], table: CategoryTable, semantic: Mapping[str, Any] | None = None) -> Table:
    """Panoptic quality of every category, and the semantic head's IoU of the stuff where there is one."""
    ious = {str(identifier): entry["iou"] for identifier, entry in semantic["per_class"].items()} if semantic else {}
    rows = []
    for identifier, figures in panoptic["per_class"].items():
        category = table.by_id[int(identifier)]
        rows.append(
            [
                category.name,
                "thing" if category.isthing else "stuff",
                *(percent(figures[key]) for key in ("pq", "sq", "rq")),
                *(str(figures[key]) for key in ("tp", "fp", "fn")),
                *([percent(ious[str(identifier)]) if str(identifier) in ious else ""] if semantic else []),
            ]
        )
    columns = ["category", "kind", "PQ", "SQ", "RQ", "TP", "FP", "FN", *(["semantic IoU"] if semantic else [])]
    return console.table("Categories", columns, rows, left=2)
