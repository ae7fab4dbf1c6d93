"""`panoptic download`: fetch and extract a data set."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from panoptic_cli import console
from panoptic_cli.transfer.sizes import human_size

from .options import DATA, DEFAULT_DATA_DIR, DataDir, DryRun, Json

if TYPE_CHECKING:  # pydantic takes 0.1 s to import, which would delay every help page
    from panoptic_cli.transfer.download import DownloadOutcome
    from panoptic_cli.transfer.download_plan import Plan


_SOURCE = "Source"


class _Split(StrEnum):
    """The choices of --split. Typer does not support lists of Literals."""

    train = "train"
    val = "val"


def download(
    data_dir: DataDir = DEFAULT_DATA_DIR,
    split: Annotated[
        list[_Split] | None,
        typer.Option(
            "--split",
            metavar="train|val",
            help="Only this split; repeatable. val is 1.9 GB, both are 21.3 GB.",
            show_default="both",
            rich_help_panel=DATA,
        ),
    ] = None,
    connections: Annotated[
        int, typer.Option("--connections", min=1, max=16, metavar="N", help="Number of connections for each archive.")
    ] = 8,
    keep_zips: Annotated[
        bool, typer.Option("--keep-zips/--no-keep-zips", help="Keep the archives in <data-dir>/zips.")
    ] = False,
    base_url: Annotated[
        str | None,
        typer.Option(
            "--base-url",
            envvar="PANOPTIC_BASE_URL",
            metavar="URL",
            help="Download from this mirror.",
            show_default="http://images.cocodataset.org/",
            rich_help_panel=_SOURCE,
        ),
    ] = None,
    manifest: Annotated[
        Path | None,
        typer.Option(
            "--manifest",
            envvar="PANOPTIC_MANIFEST",
            metavar="FILE",
            help="JSON manifest of archives: sizes, SHA-256 and extraction targets.",
            show_default="COCO 2017",
            rich_help_panel=_SOURCE,
        ),
    ] = None,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Download, verify and extract COCO with its panoptic annotations.

    Resumes unfinished downloads and extractions, and skips what is complete.

    Examples:
        panoptic download --dry-run
        panoptic download --split val --data-dir data/coco
    """
    from panoptic_cli.transfer.download import run_plan
    from panoptic_cli.transfer.download_plan import make_plan
    from panoptic_cli.transfer.manifest import SPLITS

    splits = tuple(dict.fromkeys(str(name) for name in split)) if split else SPLITS
    plan = make_plan(data_dir, splits, manifest_file=manifest, base_url=base_url)
    if dry_run:
        console.result({"dry_run": True, **plan.to_json()}, _plan_table(plan), _plan_total(plan))
        return
    outcome = run_plan(plan, connections=connections, keep_zips=keep_zips)
    if not outcome.extracted:
        console.result(outcome.to_json(), f"Nothing to do: {data_dir} is complete.")
        return
    console.result(outcome.to_json(), _outcome_table(outcome), f"{data_dir} is complete.")
    console.info(f"Next: panoptic make-tfrecords --data-dir {data_dir}")


def _outcome_table(outcome: DownloadOutcome) -> Table:
    rows = [[output.path, output.state, f"{output.files:,}", human_size(output.bytes)] for output in outcome.outputs]
    return console.table(None, ["file or folder", "state", "files", "size"], rows, left=2)


def _plan_table(plan: Plan) -> Table:
    rows = [
        [
            item.archive.filename,
            ", ".join(output.to for output in item.outputs),
            item.state,
            "unknown" if item.archive.size is None else human_size(item.archive.size),
            "unknown" if item.to_fetch is None else human_size(item.to_fetch),
        ]
        for item in plan.items
    ]
    rows.append(["total", "", "", "", human_size(plan.to_fetch)])
    return console.table(None, ["archive", "extracts to", "state", "size", "to download"], rows, left=3)


def _plan_total(plan: Plan) -> str:
    fits = "" if plan.needed <= plan.free else ": NOT ENOUGH"
    return f"{plan.data_dir}: about {human_size(plan.needed)} of disk space needed, {human_size(plan.free)} free{fits}."
