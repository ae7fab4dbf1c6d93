"""`panoptic inspect`: checks a data set or records, counts what is in them, draws samples."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from panoptic_cli import console
from panoptic_cli.errors import UsageError

from .options import DEFAULT_DATA_DIR, Json

_SHOWN_CATEGORIES = 15


def inspect(
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA", envvar="PANOPTIC_DATA_DIR", help="A data set in COCO's layout, or record files."
        ),
    ] = str(DEFAULT_DATA_DIR),
    draw: Annotated[int, typer.Option("--draw", min=0, metavar="N", help="Draw N samples of each split.")] = 0,
    output: Annotated[
        Path | None,
        typer.Option("--output", envvar="PANOPTIC_OUTPUT", help="Folder for the drawings; goes with --draw."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes. [default: one per CPU]", show_default=False)
    ] = None,
    json: Json = False,
) -> None:
    """Check a data set or records and count what is in them.

    Lists every problem at once, with the first few of each kind. Ends with exit code 1 when there are errors.
    """
    if draw and output is None:
        raise UsageError("--draw needs --output, the folder for the drawings.")
    processes = workers or os.cpu_count() or 1
    if (Path(data) / "annotations").is_dir():
        errors = _inspect_dataset(Path(data), processes, draw, output)
    else:
        errors = _inspect_records(data, processes, draw, output)
    if errors:
        raise typer.Exit(1)


def _inspect_dataset(data: Path, workers: int, draw: int, output: Path | None) -> int:
    from panoptic_cli.datasets import inspection, samples
    from panoptic_cli.datasets.coco import read_dataset
    from panoptic_cli.datasets.layout import find_splits

    reports = [inspection.inspect_split(files, workers) for files in find_splits(data)]
    inspection.add_shared_pictures(reports)
    errors = sum(report.findings.errors for report in reports)
    value: dict[str, Any] = {"data": str(data), "errors": errors, "splits": {}}
    shown: list[Any] = []
    for report in reports:
        total = sum(report.pixels.values()) or 1
        value["splits"][report.name] = {
            **{key: report.counts[key] for key in _COUNTS},
            "void_share": report.pixels[0] / total,
            "problems": report.findings.to_list(),
            "categories": [
                {"id": identifier, "name": name, "segments": segments, "pixel_share": share}
                for name, identifier, segments, share in report.shares()
                if identifier
            ],
        }
        rows = [
            [name, str(identifier or ""), f"{segments:,}" if identifier else "", f"{100 * share:.2f}"]
            for name, identifier, segments, share in report.shares()[:_SHOWN_CATEGORIES]
        ]
        title = f"{report.name}: categories by pixels, the first {len(rows)} of {len(report.shares())}"
        shown += [title, console.table(None, ["category", "id", "segments", "pixels %"], rows), ""]
    count_rows = [[r.name, *(f"{r.counts[key]:,}" for key in _COUNTS)] for r in reports]
    shown.append(console.table(f"{data}", ["split", *_COUNTS], count_rows))
    for report in reports:
        shown += _problem_lines(report.name, report.findings)
    if draw and output is not None:
        for files in find_splits(data):
            dataset = read_dataset(files)
            drawn = samples.draw(samples.dataset_samples(dataset, draw), dataset.table, output)
            value.setdefault("drawn", []).extend(str(path) for path in drawn)
        shown.append(f"Samples drawn in {output}")
    console.result(value, *shown)
    return errors


_COUNTS = ("pictures", "segments", "things", "stuff", "crowds", "objects")


def _inspect_records(data: str, workers: int, draw: int, output: Path | None) -> int:
    from panoptic_cli.categories import CategoryTable
    from panoptic_cli.datasets import record_inspection, samples

    paths = record_inspection.find_records(data)
    report = record_inspection.inspect_records(paths, workers)
    keys = ("files", "records", "objects", "crowds", "segments", "bytes")
    value: dict[str, Any] = {
        "data": data,
        "errors": report.findings.errors,
        **{key: report.counts[key] for key in keys},
        "problems": report.findings.to_list(),
    }
    counts = [f"{report.counts[key]:,}" for key in keys]
    shown: list[Any] = [console.table(data, list(keys), [counts], left=0)]
    shown += _problem_lines("records", report.findings)
    if draw and output is not None:
        table = CategoryTable.from_file(paths[0].parent / "categories.json")
        value["drawn"] = [str(p) for p in samples.draw(samples.record_samples(paths, draw), table, output)]
        shown.append(f"Samples drawn in {output}")
    console.result(value, *shown)
    return report.findings.errors


def _problem_lines(name: str, findings: Any) -> list[str]:
    if not findings.by_kind:
        return [f"{name}: no problems."]
    lines = []
    for finding in findings.ordered():
        lines.append(f"{name}: {finding.severity}: {finding.kind}: {finding.count:,}")
        lines += [f"    {example}" for example in finding.examples]
        rest = finding.count - len(finding.examples)
        lines += [f"    ... and {rest:,} more"] if rest > 0 else []
    return lines
