"""`panoptic make-panoptic`: makes panoptic data from objects and stuff that were annotated separately."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from panoptic_cli import console
from panoptic_cli.errors import UsageError

from . import custom_data
from .help_pages import HelpAll
from .options import DATA, DEFAULT_DATA_DIR, DataDir, DryRun, Json

if TYPE_CHECKING:
    from panoptic_cli.composition.composition import CompositionSummary
    from panoptic_cli.composition.preparation import Composition

_STUFF = "Stuff"
_SHOWN = 3  # vanished objects that are named
RARE = ("--image-dir", "--stuff-categories", "--overlaps", "--workers")


def make_panoptic(
    data_dir: DataDir = DEFAULT_DATA_DIR,
    split: Annotated[
        list[str] | None,
        typer.Option(
            "--split",
            metavar="train|val",
            help="Make only this split; repeatable.",
            show_default="all that exist",
            rich_help_panel=DATA,
        ),
    ] = None,
    category_map: custom_data.CategoryMapFile = None,
    object_annotations: Annotated[
        Path | None,
        typer.Option(
            "--object-annotations",
            envvar="PANOPTIC_OBJECT_ANNOTATIONS",
            metavar="FILE",
            help="Instances JSON, instead of a data folder.",
            rich_help_panel=custom_data.PANEL,
        ),
    ] = None,
    image_dir: Annotated[
        Path | None,
        typer.Option(
            "--image-dir",
            envvar="PANOPTIC_IMAGE_DIR",
            metavar="DIR",
            help="Folder of the pictures, for sizes that the JSON lacks.",
            rich_help_panel=custom_data.PANEL,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            metavar="FILE",
            help="Panoptic JSON to write; PNGs go to this path without .json.",
            show_default="beside the instances JSON",
            rich_help_panel=custom_data.PANEL,
        ),
    ] = None,
    stuff_annotations: Annotated[
        Path | None,
        typer.Option(
            "--stuff-annotations",
            metavar="FILE",
            help="COCO stuff JSON: polygons or run lengths.",
            rich_help_panel=_STUFF,
        ),
    ] = None,
    semantic_masks: Annotated[
        Path | None,
        typer.Option(
            "--semantic-masks",
            metavar="DIR",
            help="Folder of PNGs whose values are categories.",
            rich_help_panel=_STUFF,
        ),
    ] = None,
    stuff_categories: Annotated[
        Path | None,
        typer.Option(
            "--stuff-categories",
            metavar="FILE",
            help="Names of these values: JSON, or YAML with 'value: name'.",
            show_default="the instances JSON's",
            rich_help_panel=_STUFF,
        ),
    ] = None,
    overlaps: Annotated[
        Literal["smaller-on-top", "later-on-top"],
        typer.Option(
            metavar="RULE",
            help="Where objects overlap: smaller-on-top or later-on-top.",
        ),
    ] = "smaller-on-top",
    workers: Annotated[
        int | None,
        typer.Option("--workers", min=1, metavar="N", help="Number of processes.", show_default="one per CPU"),
    ] = None,
    on_bad_data: Annotated[
        Literal["fail", "skip"],
        typer.Option(help="What to do at bad pictures. fail stops, skip leaves them out and counts them."),
    ] = "fail",
    dry_run: DryRun = False,
    json: Json = False,
    help_all: HelpAll = False,
) -> None:
    """Make panoptic data from polygons or masks of objects, and of stuff.

    From a COCO instances JSON, and for stuff a COCO stuff JSON or semantic PNGs, to the panoptic PNGs and the panoptic
    JSON that inspect and make-tfrecords read. From below: stuff, crowds, objects. Pixels that nothing covers are
    unlabelled. Categories of the instances JSON are things, unless their isthing is 0 or --category-map says stuff.

    Examples:
        panoptic make-panoptic --object-annotations mine/instances.json
        panoptic make-panoptic --data-dir mine --semantic-masks mine/semantic
    """
    from dataclasses import replace

    from panoptic_cli.composition.composition import compose_all
    from panoptic_cli.composition.plans import plan_coco_splits, plan_own_files, with_stuff
    from panoptic_cli.composition.preparation import prepare

    if object_annotations is not None:
        if split:
            raise UsageError("--split needs COCO's layout; it cannot be combined with --object-annotations.")
        plans = [plan_own_files(object_annotations, output, image_dir)]
    elif output is not None or image_dir is not None:
        raise UsageError("--output and --image-dir need --object-annotations; COCO's layout has its own places.")
    else:
        plans = plan_coco_splits(data_dir, split or ())
    plans = [
        replace(plan, category_map=category_map, overlaps=overlaps, on_bad_data=on_bad_data)
        for plan in with_stuff(plans, stuff_annotations, semantic_masks, stuff_categories)
    ]
    if dry_run:
        _show_plans([prepare(plan) for plan in plans])
    else:
        _show_summaries(compose_all(plans, workers or os.cpu_count() or 1))


def _show_plans(compositions: list[Composition]) -> None:
    columns = ["split", "pictures", "things", "stuff", "panoptic JSON"]
    rows, data = [], []
    for found in compositions:
        plan, table = found.plan, found.vocabulary.table
        counts = [len(found.source), len(table.things), len(table.stuff)]
        rows.append([plan.name, *(f"{n:,}" for n in counts), str(plan.output)])
        data.append(
            {
                "name": plan.name,
                "pictures": len(found.source),
                "categories": table.to_list(),
                "output": str(plan.output),
                "masks_dir": str(plan.masks_dir),
            }
        )
    shown = console.table("Would make (things and stuff: categories)", columns, rows)
    console.result({"dry_run": True, "splits": data}, shown)


def _show_summaries(summaries: list[CompositionSummary]) -> None:
    from dataclasses import asdict

    columns = ["split", "pictures", "things", "crowds", "stuff", "unlabelled %", "seconds"]
    rows = [
        [
            s.name,
            *(f"{n:,}" for n in (s.pictures, s.things, s.crowds, s.stuff)),
            f"{100 * s.unlabelled_share:.2f}",
            f"{s.seconds:,.1f}",
        ]
        for s in summaries
    ]
    lines = [line for summary in summaries for line in _notes(summary)]
    lines += [f"{s.name}: {s.output}, PNGs in {s.masks_dir}" for s in summaries]
    console.result({"splits": [asdict(s) for s in summaries]}, console.table("Panoptic data", columns, rows), *lines)


def _notes(summary: CompositionSummary) -> list[str]:
    from panoptic_cli.errors import counted, listed

    lines = []
    if summary.kept_pictures:
        lines.append(f"{counted(summary.kept_pictures, 'pictures were')} made already")
    hidden = summary.partly_hidden + summary.mostly_hidden
    if hidden:
        lines.append(
            f"{counted(hidden, 'things are')} partly hidden by others, {summary.mostly_hidden:,} by more than half"
        )
    if summary.wholly_hidden:
        rest = summary.wholly_hidden - _SHOWN
        shown = listed(summary.vanished[:_SHOWN]) + (f" and {rest:,} more" if rest > 0 else "")
        lines.append(f"{counted(summary.wholly_hidden, 'things are')} wholly hidden by others and left out: {shown}")
    if summary.empty:
        lines.append(f"left out {counted(summary.empty, 'annotations without outline or without pixels')}")
    if summary.reshaped:
        found = counted(summary.reshaped, "annotations have")
        lines.append(f"{found} polygons in another form than COCO's; they are read as meant")
    if summary.without_segments:
        lines.append(f"{counted(summary.without_segments, 'pictures have')} no segment: unlabelled as a whole")
    lines += [f"skipped {counted(count, 'pictures')}: {reason}" for reason, count in summary.skipped_pictures.items()]
    return [f"{summary.name}: {line}" for line in lines]
