"""The evaluation report: one self-contained HTML page."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

from panoptic_cli.categories import Category, CategoryTable
from panoptic_cli.evaluation.report_data import ReportData, ShownPicture
from panoptic_cli.files import write_text

_CONFUSIONS = 15
_AP_COLUMNS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100")
_CLASS_AP = {"box_AP": "box AP", "mask_AP": "mask AP"}


def write_report(path: Path, subject: str, figures: Mapping[str, Any], data: ReportData) -> None:
    """Writes the report.

    Args:
        path: the HTML file.
        subject: the checkpoint or result file that was evaluated.
        figures: the object that `evaluate --json` prints: "panoptic", "per_class", "images" and, for a model,
            "box", "mask", "step" and, if it has a semantic head, "semantic".
        data: what was collected picture by picture.
    """
    write_text(path, report_html(subject, figures, data))


def report_html(subject: str, figures: Mapping[str, Any], data: ReportData) -> str:
    """Returns the page; the arguments are those of `write_report`."""
    panoptic = figures["panoptic"]
    note = f"{figures['images']:,} images" + (f" · step {figures['step']:,}" if figures.get("step") else "")
    sections = [
        f"<header><h1>Panoptic evaluation</h1><p><code>{escape(subject)}</code> · {note}</p></header>",
        _section("Panoptic quality", _tiles(panoptic) + _quality_table(panoptic)),
    ]
    if "box" in figures:
        sections.append(_section("Average precision", _precision_table(figures["box"], figures["mask"])))
    if figures.get("semantic"):
        sections.append(_section("Semantic head", _semantic(figures["semantic"])))
    sections += [
        _section("Categories", _class_table(panoptic["per_class"], figures.get("per_class", {}), data.table)),
        _section("Predictions for pixels of things and stuff", _kinds(data)),
        _section("Most frequent confusions", _confusions(data)),
        _section("Worst pictures", _pictures(data.worst, data)),
        _section("Best pictures", _pictures(data.best, data)),
    ]
    style, script = (
        resources.files("panoptic_cli.evaluation").joinpath(name).read_text("utf-8")
        for name in ("report.css", "report.js")
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Panoptic evaluation of {escape(subject)}</title>\n<style>\n{style}</style></head>\n<body><main>\n"
        + "\n".join(sections)
        + f"\n</main>\n<script>\n{script}</script></body></html>\n"
    )


def _section(title: str, content: str) -> str:
    return f"<section><h2>{title}</h2>\n{content}</section>"


def _percent(value: float | None, digits: int = 2) -> str:
    return "n/a" if value is None else f"{100 * value:.{digits}f}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "", left: int = 1) -> str:
    """Returns a table of HTML cells whose first `left` columns are text."""

    def row(cells: Sequence[str], tag: str) -> str:
        sides = ["text" if place < left else "number" for place in range(len(cells))]
        return "<tr>" + "".join(f'<{tag} class="{s}">{c}</{tag}>' for s, c in zip(sides, cells, strict=True)) + "</tr>"

    body = "\n".join(row(cells, "td") for cells in rows)
    return (
        f'<div class="scroll"><table class="{kind}"><thead>{row(head, "th")}</thead>\n'
        f"<tbody>{body}</tbody></table></div>\n"
    )


def _bar(value: float, kind: str = "") -> str:
    width = f"{100 * value:.1f}"
    return (
        f'<svg class="bar {kind}" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect class="track" width="100" height="10"/><rect class="fill" width="{width}" height="10"/></svg>'
    )


def _tiles(panoptic: Mapping[str, Any]) -> str:
    tiles = "".join(
        f'<div class="tile"><span>{name}</span><b>{_percent(panoptic[key]["pq"])}</b></div>'
        for name, key in (("PQ", "All"), ("PQ things", "Things"), ("PQ stuff", "Stuff"))
    )
    return f'<div class="tiles">{tiles}</div>\n'


def _quality_table(panoptic: Mapping[str, Any]) -> str:
    rows = [
        [name, *(_percent(panoptic[name][key]) for key in ("pq", "sq", "rq")), str(panoptic[name]["n"])]
        for name in ("All", "Things", "Stuff")
    ]
    return _table(("", "PQ", "SQ", "RQ", "categories"), rows) + (
        "<p>In percent, averaged over the categories that occur. PQ = SQ &times; RQ in each category: SQ is the mean "
        "overlap (IoU) of matched segments, RQ the F1 score of matching them.</p>"
    )


def _precision_table(box: Mapping[str, Any], mask: Mapping[str, Any]) -> str:
    rows = [[name, *(_percent(f[key]) for key in _AP_COLUMNS)] for name, f in (("Boxes", box), ("Masks", mask))]
    return _table(("", *_AP_COLUMNS), rows) + "<p>In percent; n/a if there is no object of that size to find.</p>"


def _semantic(semantic: Mapping[str, Any]) -> str:
    return (
        f"<p>Mean IoU <b>{_percent(semantic['mIoU'])}</b> over {semantic['n']} classes, with all things as one class; "
        f"<b>{_percent(semantic['pixel_accuracy'])}</b> % of the labelled pixels are correct.</p>"
    )


def _class_table(
    quality: Mapping[int | str, Mapping[str, Any]],
    precision: Mapping[int | str, Mapping[str, Any]],
    table: CategoryTable,
) -> str:
    found = [(i, f) for i, f in quality.items() if f["tp"] + f["fp"] + f["fn"]]
    found.sort(key=lambda entry: -entry[1]["pq"])
    has_precision = any("box_AP" in entry for entry in precision.values())
    rows = []
    for identifier, figures in found:
        category = table.by_id[int(identifier)]
        kind = "thing" if category.isthing else "stuff"
        row = [_name(category), kind, _bar(figures["pq"], kind), *(_percent(figures[k], 1) for k in ("pq", "sq", "rq"))]
        if has_precision:
            row += [_percent(precision[identifier][key], 1) if category.isthing else "" for key in _CLASS_AP]
        rows.append([*row, *(str(figures[key]) for key in ("tp", "fp", "fn"))])
    absent = len(quality) - len(found)
    note = f"<p>{absent} categories do not occur in these pictures.</p>" if absent else ""
    if has_precision:
        note = "<p>AP is of things only; n/a if there is no object to find.</p>" + note
    head = ("category", "kind", "", "PQ", "SQ", "RQ", *(_CLASS_AP.values() if has_precision else ()))
    return _table((*head, "matched", "false", "missed"), rows, "sortable classes", left=3) + note


def _name(category: Category | None) -> str:
    if category is None:
        return '<i class="swatch void"></i>void'
    red, green, blue = category.color
    return f'<i class="swatch" style="background:rgb({red} {green} {blue})"></i>{escape(category.name)}'


def _kinds(data: ReportData) -> str:
    rows = []
    for name, counts in data.confusion.by_kind().items():
        total = sum(counts.values())
        shares = [_percent(counts[k] / total if total else None, 1) for k in ("right", "things", "stuff", "void")]
        rows.append([name, *shares, f"{total:,}"])
    head = ("pixels of", "right category", "wrong thing", "wrong stuff", "void", "pixels")
    return _table(head, rows) + (
        "<p>Percent of the ground truth's pixels, by predicted category. Crowds and unlabelled pixels do not count. "
        "Pixels are compared by category alone, regardless of their segments.</p>"
    )


def _confusions(data: ReportData) -> str:
    rows = [
        [_name(true), _name(predicted), _bar(share, "wrong"), _percent(share, 1), f"{pixels:,}"]
        for true, predicted, pixels, share in data.confusion.most_frequent(_CONFUSIONS)
    ]
    if not rows:
        return "<p>None: every labelled pixel has the right category.</p>"
    head = ("ground truth", "predicted as", "", "% of its pixels", "pixels")
    return _table(head, rows, "classes", left=3)


def _pictures(shown: Sequence[ShownPicture], data: ReportData) -> str:
    if not shown:
        return "<p>None.</p>"
    cards = "\n".join(_card(picture) for picture in shown)
    note = f" {data.unscored} pictures without any segment have no PQ." if data.unscored else ""
    return (
        f'<div class="cards">{cards}</div><p>The PQ of a picture is over all of its segments together, '
        f"not averaged over categories.{note}</p>"
    )


def _card(shown: ShownPicture) -> str:
    name = escape(str(shown.image_id))
    views = [("picture", shown.picture), ("ground truth", shown.truth), ("prediction", shown.prediction)]
    figures = "".join(
        f'<figure><img alt="{title} of image {name}" src="data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}">'
        f"<figcaption>{title}</figcaption></figure>"
        for title, jpeg in views
        if jpeg is not None
    )
    return f'<article><h3>{name}<b>PQ {_percent(shown.pq, 1)}</b></h3><div class="views">{figures}</div></article>'
