"""`panoptic make-tfrecords`: converts a COCO panoptic data set to sharded TFRecords."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from panoptic_cli import console
from panoptic_cli.errors import UsageError, counted

from . import custom_data
from .help_pages import HelpAll
from .options import DATA, DEFAULT_DATA_DIR, AnnotatedExif, DataDir, DryRun, Json, MaxPixels

if TYPE_CHECKING:
    from panoptic_cli.records.conversion import ConversionSummary
    from panoptic_cli.records.plans import ConversionPlan

_RECORDS = "Records"
_BEAM = "Apache Beam (several machines)"
RARE = (
    *("--merge-stuff", "--seed", "--exif", "--max-pixels", "--output-prefix", "--shards"),
    *("--runner", "--runner-option"),
)


def make_tfrecords(
    data_dir: DataDir = DEFAULT_DATA_DIR,
    output_dir: Annotated[
        Path | None,
        typer.Option(
            "--output-dir",
            envvar="PANOPTIC_OUTPUT_DIR",
            metavar="DIR",
            help="Folder of the records.",
            show_default="<data-dir>/tfrecords",
            rich_help_panel=_RECORDS,
        ),
    ] = None,
    split: Annotated[
        list[str] | None,
        typer.Option(
            "--split",
            metavar="train|val",
            help="Convert only this split; repeatable.",
            show_default="all that exist",
            rich_help_panel=DATA,
        ),
    ] = None,
    train_shards: Annotated[
        int,
        typer.Option(
            "--train-shards", min=1, max=99999, metavar="N", help="Number of training files.", rich_help_panel=_RECORDS
        ),
    ] = 32,
    val_shards: Annotated[
        int,
        typer.Option(
            "--val-shards", min=1, max=99999, metavar="N", help="Number of validation files.", rich_help_panel=_RECORDS
        ),
    ] = 8,
    workers: Annotated[
        int | None,
        typer.Option("--workers", min=1, metavar="N", help="Number of processes.", show_default="one per CPU"),
    ] = None,
    on_bad_data: Annotated[
        Literal["fail", "skip", "void"],
        typer.Option(
            help="What to do at bad pictures. fail stops and skip leaves them out. void stops, too, but keeps "
            "pictures without annotation as unlabelled."
        ),
    ] = "fail",
    image_dir: custom_data.ImageDir = None,
    panoptic_annotations: custom_data.PanopticAnnotations = None,
    panoptic_masks: custom_data.PanopticMasks = None,
    object_annotations: custom_data.ObjectAnnotations = None,
    category_map: custom_data.CategoryMapFile = None,
    merge_stuff: Annotated[
        bool,
        typer.Option(
            "--merge-stuff",
            help="Make the segments of one stuff category in a picture one segment.",
            rich_help_panel=DATA,
        ),
    ] = False,
    val_share: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="Share of one split that becomes val. The rest becomes train.",
            rich_help_panel=DATA,
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(metavar="N", help="Seed of --val-share.", show_default="0", rich_help_panel=DATA),
    ] = None,
    output_prefix: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Prefix of the file names.",
            show_default="train",
            rich_help_panel=_RECORDS,
        ),
    ] = None,
    shards: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=99999,
            metavar="N",
            help="Number of files of each split.",
            rich_help_panel=_RECORDS,
        ),
    ] = None,
    runner: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Beam runner, e.g. DirectRunner; its workers must see the same folders.",
            rich_help_panel=_BEAM,
        ),
    ] = None,
    runner_option: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Beam pipeline option; repeatable.", rich_help_panel=_BEAM),
    ] = None,
    exif: AnnotatedExif = None,
    max_pixels: MaxPixels = None,
    dry_run: DryRun = False,
    json: Json = False,
    help_all: HelpAll = False,
) -> None:
    """Convert a COCO panoptic data set to sharded TFRecords.

    Without options, both splits of ./data/coco become 32 and 8 shards in data/coco/tfrecords. You can interrupt the
    conversion at any time: the next run makes the shards that are missing, stale or damaged.

    Examples:
        panoptic make-tfrecords --data-dir data/coco
        panoptic make-tfrecords --split val --val-shards 4 --dry-run
        panoptic make-tfrecords --data-dir mine --split train --val-share 0.1
    """
    from panoptic_cli.coco.layout import OwnFiles
    from panoptic_cli.config.data import RECORDS_FOLDER
    from panoptic_cli.processes import run_units
    from panoptic_cli.records.beam_runner import beam_units
    from panoptic_cli.records.conversion import convert_all
    from panoptic_cli.records.plans import plan_conversions

    if val_share is not None and not 0 < val_share < 1:
        raise UsageError(f"--val-share must be between 0 and 1, not {val_share:g}.", "For example: --val-share 0.1.")
    if seed is not None and val_share is None:
        raise UsageError("--seed is for dividing a split.", "Give --val-share X, too, or omit --seed.")
    target = output_dir or data_dir / RECORDS_FOLDER
    plans = plan_conversions(
        data_dir,
        target,
        {"train": shards or train_shards, "val": shards or val_shards},
        on_bad_data,
        splits=split or (),
        own=OwnFiles(image_dir, panoptic_annotations, panoptic_masks, object_annotations),
        prefix=output_prefix,
        exif=exif,
        category_map=category_map,
        merge_stuff=merge_stuff,
        val_share=val_share,
        seed=seed or 0,
    )
    if runner is None and runner_option:
        raise UsageError("--runner-option is for Apache Beam.", "Give --runner NAME, too, or omit --runner-option.")
    run = run_units if runner is None else beam_units(runner, runner_option or [], target)
    if dry_run:
        _show_plans(plans)
    else:
        _show_summaries(target, convert_all(plans, workers or os.cpu_count() or 1, run))


def _show_plans(plans: list[ConversionPlan]) -> None:
    from panoptic_cli.records.conversion import count_convertible

    counts = [count_convertible(plan) for plan in plans]
    columns = ["split", "pictures", "shards", "first file"]
    rows = [
        [plan.files.name, f"{count:,}", f"{plan.shards:,}", str(plan.output_dir / plan.shard_name(0))]
        for plan, count in zip(plans, counts, strict=True)
    ]
    data = [
        {
            "prefix": plan.files.name,
            "pictures": count,
            "shards": plan.shards,
            "output_dir": str(plan.output_dir),
        }
        for plan, count in zip(plans, counts, strict=True)
    ]
    console.result({"dry_run": True, "splits": data}, console.table("Would convert", columns, rows))


def _show_summaries(target: Path, summaries: list[ConversionSummary]) -> None:
    from dataclasses import asdict

    columns = ["split", "pictures", "objects", "crowds", "segments", "shards", "MB", "seconds", "images/s"]
    rows = [
        [
            s.prefix,
            *(f"{n:,}" for n in (s.pictures, s.objects, s.crowds, s.segments, s.shards)),
            f"{s.bytes / 1e6:,.1f}",
            f"{s.seconds:,.1f}",
            f"{s.images_per_second:,.1f}",
        ]
        for s in summaries
    ]
    lines = [
        f"{s.prefix}: {counted(s.kept_shards, 'shards were')} complete already" for s in summaries if s.kept_shards
    ]
    lines += [
        f"{s.prefix}: skipped {counted(count, what)}: {reason}"
        for s in summaries
        for what, reasons in (("objects", s.skipped_objects), ("pictures", s.skipped_pictures))
        for reason, count in reasons.items()
    ]
    lines += [f"{s.prefix}: {counted(count, note)}" for s in summaries for note, count in s.notes.items()]
    table = console.table(f"Records in {target}", columns, rows)
    console.result({"output_dir": str(target), "splits": [asdict(s) for s in summaries]}, table, *lines)
