"""The result tables of evaluate and demo, figures in percent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from panoptic_cli import console


def evaluation_tables(figures: Mapping[str, Any], *, per_class: bool = False) -> list[Table | console.WideTable]:
    """Builds the tables of an evaluation.

    Args:
        figures: the object that --json prints; "box", "mask" and "semantic" may be missing.
        per_class: whether to add a table of all categories.
    """
    tables: list[Table | console.WideTable] = [quality_table(figures["panoptic"])]
    if "box" in figures:
        tables.append(average_precision_table(figures["box"], figures["mask"]))
    if per_class:
        tables.append(class_table(figures))
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


def class_table(figures: Mapping[str, Any]) -> console.WideTable:
    """Builds the table of each category's figures: panoptic quality, AP of things, and semantic IoU of stuff.

    Args:
        figures: the object that --json prints; only a model's has AP, and "semantic" if it has a semantic head.
    """
    per_class, counts = figures["per_class"], figures["panoptic"]["per_class"]
    entries = [(entry, counts[identifier]) for identifier, entry in per_class.items()]
    columns = {
        "category": [entry["name"] for entry, _ in entries],
        "kind": ["thing" if entry["isthing"] else "stuff" for entry, _ in entries],
        **{key.upper(): [percent(entry[key]) for entry, _ in entries] for key in ("pq", "sq", "rq")},
    }
    if "box" in figures:
        for key in ("box_AP", "mask_AP"):
            columns[key.replace("_", " ")] = [percent(e[key]) if e["isthing"] else "" for e, _ in entries]
    columns |= {key.upper(): [str(count[key]) for _, count in entries] for key in ("tp", "fp", "fn")}
    if semantic := figures.get("semantic"):
        ious = {str(identifier): entry["iou"] for identifier, entry in semantic["per_class"].items()}
        columns["semantic IoU"] = [percent(ious[str(i)]) if str(i) in ious else "" for i in per_class]
    spare = [("TP", "FP", "FN"), ("kind",), ("semantic IoU",), ("SQ", "RQ")]
    return console.WideTable("Categories", columns, left=2, spare=spare)
