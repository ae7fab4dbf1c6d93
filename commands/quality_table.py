"""The result tables of evaluate and demo, figures in percent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table

from panoptic_cli import console

if TYPE_CHECKING:
    from panoptic_cli.categories import CategoryTable


def evaluation_tables(figures: Mapping[str, Any], table: CategoryTable | None = None) -> list[Table]:
    """Builds the tables of an evaluation.

    Args:
        figures: the object that --json prints; "box", "mask" and "semantic" may be missing.
        table: the categories, for a table of each category; None for none.
    """
    tables = [quality_table(figures["panoptic"])]
    if "box" in figures:
        tables.append(average_precision_table(figures["box"], figures["mask"]))
    if table is not None:
        tables.append(class_table(figures["panoptic"], table, figures.get("semantic")))
    return tables


def watch_table(lines: Sequence[Mapping[str, Any]]) -> Table:
    """Builds the table of `evaluate --watch` from lines of evaluations.jsonl."""
    rows = [[str(line["step"]), *(percent(line[key]) for key in ("PQ", "box_AP", "mask_AP"))] for line in lines]
    return console.table("Evaluations", ["step", "PQ", "box AP", "mask AP"], rows, left=0)


def percent(value: float | None) -> str:
    """Formats a figure of 0..1 in percent; "n/a" for None."""
    return "n/a" if value is None else f"{100 * value:.2f}"


def quality_table(panoptic: Mapping[str, Any]) -> Table:
    """Builds the table of panoptic, segmentation and recognition quality of all, things and stuff."""
    rows = [
        [name, *(percent(panoptic[name][key]) for key in ("pq", "sq", "rq")), str(int(panoptic[name]["n"]))]
        for name in ("All", "Things", "Stuff")
    ]
    return console.table("Panoptic quality", ["", "PQ", "SQ", "RQ", "classes"], rows)


def average_precision_table(box: Mapping[str, Any], mask: Mapping[str, Any]) -> Table:
    """Builds the table of the average precision of boxes and masks."""
    keys = ("AP", "AP50", "AP75", "APs", "APm", "APl")
    rows = [[name, *(percent(figures[key]) for key in keys)] for name, figures in (("box", box), ("mask", mask))]
    return console.table("Average precision", ["", *keys], rows)


def class_table(panoptic: Mapping[str, Any], table: CategoryTable, semantic: Mapping[str, Any] | None = None) -> Table:
    """Builds the table of each category's panoptic quality, and of the semantic IoU of stuff if `semantic` is given."""
    ious = {str(identifier): entry["iou"] for identifier, entry in semantic["per_class"].items()} if semantic else {}
    rows = []
    for identifier, figures in panoptic["per_class"].items():
        category = table.by_id[int(identifier)]
        occurs = figures["tp"] + figures["fp"] + figures["fn"] > 0
        rows.append(
            [
                category.name,
                "thing" if category.isthing else "stuff",
                *(percent(figures[key] if occurs else None) for key in ("pq", "sq", "rq")),
                *(str(figures[key]) for key in ("tp", "fp", "fn")),
                *([percent(ious[str(identifier)]) if str(identifier) in ious else ""] if semantic else []),
            ]
        )
    columns = ["category", "kind", "PQ", "SQ", "RQ", "TP", "FP", "FN", *(["semantic IoU"] if semantic else [])]
    return console.table("Categories", columns, rows, left=2)
