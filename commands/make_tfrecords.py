"""`panoptic make-tfrecords`: a COCO panoptic data set becomes sharded TFRecords."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from panoptic_cli import console
from panoptic_cli.errors import UsageError

from . import custom_data
from .options import DATA, DEFAULT_DATA_DIR, DataDir, DryRun, Json

if TYPE_CHECKING:
    from panoptic_cli.records.conversion import ConversionSummary
    from panoptic_cli.records.manifest import ConversionPlan

_RECORDS = "Records"
_BEAM = "Several machines, with Apache Beam installed"


def make_tfrecords(
    data_dir: DataDir = DEFAULT_DATA_DIR,
    output_dir: Annotated[
        Path | None,
        typer.Option(
            "--output-dir",
            envvar="PANOPTIC_OUTPUT_DIR",
            metavar="DIR",
            help="Where the records go.",
            show_default="<data-dir>/tfrecords",
            rich_help_panel=_RECORDS,
        ),
    ] = None,
    split: Annotated[
        list[str] | None,
        typer.Option(
            "--split",
            metavar="train|val",
            help="Convert this split only; repeatable.",
            show_default="all that are there",
            rich_help_panel=DATA,
        ),
    ] = None,
    train_shards: Annotated[
        int,
        typer.Option("--train-shards", min=1, max=99999, metavar="N", help="Training files.", rich_help_panel=_RECORDS),
    ] = 32,
    val_shards: Annotated[
        int,
        typer.Option("--val-shards", min=1, max=99999, metavar="N", help="Validation files.", rich_help_panel=_RECORDS),
    ] = 8,
    workers: Annotated[
        int | None,
        typer.Option("--workers", min=1, metavar="N", help="Processes.", show_default="one per CPU"),
    ] = None,
    on_bad_data: Annotated[
        Literal["fail", "skip"],
        typer.Option(help="At a bad picture: stop, or leave it out and count it."),
    ] = "fail",
    image_dir: custom_data.ImageDir = None,
    panoptic_annotations: custom_data.PanopticAnnotations = None,
    panoptic_masks: custom_data.PanopticMasks = None,
    object_annotations: custom_data.ObjectAnnotations = None,
    output_prefix: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="First part of the shards' names.",
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
            help="Files of either split.",
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
        typer.Option(metavar="NAME=VALUE", help="Option of the pipeline; repeatable.", rich_help_panel=_BEAM),
    ] = None,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Convert a COCO panoptic data set to sharded TFRecords.

    Without options both splits of ./data/coco become 32 and 8 shards in data/coco/tfrecords. Interrupt it as you
    like: the next run goes on with the shards that are missing, stale or damaged.

    Examples:
        panoptic make-tfrecords --data-dir data/coco
        panoptic make-tfrecords --split val --val-shards 4 --dry-run
    """
    from functools import partial

    from panoptic_cli.coco import layout
    from panoptic_cli.processes import prepare, run_units
    from panoptic_cli.records import beam_runner, conversion
    from panoptic_cli.records.manifest import ConversionPlan

    unknown = [name for name in split or [] if name not in layout.SPLITS]
    if unknown:
        raise UsageError(f"--split is train or val, not {unknown[0]!r}.")
    custom = [image_dir, panoptic_annotations, panoptic_masks, object_annotations]
    target = output_dir or data_dir / "tfrecords"
    if any(path is not None for path in custom):
        if split:
            raise UsageError(
                "--split goes with COCO's layout, not with --panoptic-annotations.", "Use --output-prefix."
            )
        prefix = _prefix(output_prefix)
        files = [custom_data.split_files(prefix, image_dir, panoptic_annotations, panoptic_masks, object_annotations)]
        if image_dir is None:
            console.info(f"Pictures: {files[0].image_dir}")
        counts = [shards or (val_shards if files[0].name == "val" else train_shards)]
    else:
        if output_prefix is not None:
            raise UsageError("--output-prefix goes with --panoptic-annotations; COCO's splits have their names.")
        files = layout.find_splits(data_dir, list(dict.fromkeys(split)) if split else None)
        counts = [shards or (train_shards if f.name == "train" else val_shards) for f in files]
    run = run_units
    if runner is not None:
        beam_runner.check_beam(runner, runner_option or [])
        run = partial(beam_runner.run_units_on_beam, runner, runner_option or [], target)
    elif runner_option:
        raise UsageError("--runner-option needs --runner.")
    plans = [ConversionPlan(f, target, count, on_bad_data) for f, count in zip(files, counts, strict=True)]
    if dry_run:
        _show_plan(plans)
        return
    processes = workers or os.cpu_count() or 1
    if processes > 1 and runner is None:
        prepare(conversion.__name__)  # they start while the annotations are read
    summaries = []
    for plan in plans:
        dataset = conversion.read_plan(plan)
        summaries.append(conversion.convert(plan, dataset, processes, run))
        del dataset
    _show_summaries(target, summaries)


def _prefix(given: str | None) -> str:
    name = "train" if given is None else given
    if not name or any(c in name for c in "/\\*?[]\0") or name.startswith("."):
        raise UsageError(f"--output-prefix {name!r} cannot begin a file name.", "Use letters, digits, - and _.")
    return name


def _show_plan(plans: list[ConversionPlan]) -> None:
    from panoptic_cli.coco.dataset import require_sound
    from panoptic_cli.records.conversion import read_plan

    rows, data = [], []
    for plan in plans:
        dataset = read_plan(plan)
        require_sound(dataset, skip_bad_pictures=plan.on_bad_data == "skip")
        count = len(dataset.pictures)
        rows.append([plan.files.name, f"{count:,}", f"{plan.shards:,}", str(plan.output_dir / plan.shard_name(0))])
        data.append(
            {
                "prefix": plan.files.name,
                "pictures": count,
                "shards": plan.shards,
                "output_dir": str(plan.output_dir),
            }
        )
    table = console.table("Would convert", ["split", "pictures", "shards", "first file"], rows)
    console.result({"dry_run": True, "splits": data}, table)


def _show_summaries(target: Path, summaries: list[ConversionSummary]) -> None:
    from dataclasses import asdict

    columns = [
        "split",
        "pictures",
        "objects",
        "crowds",
        "segments",
        "shards",
        "MB",
        "seconds",
        "images/s",
    ]
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
    lines = [f"{s.prefix}: {s.kept_shards} shards were whole already" for s in summaries if s.kept_shards]
    lines += [
        f"{s.prefix}: left out {count:,} {what}: {reason}"
        for s in summaries
        for what, reasons in (("objects", s.skipped_objects), ("pictures", s.skipped_pictures))
        for reason, count in reasons.items()
    ]
    lines += [f"{s.prefix}: {count:,} {note}" for s in summaries for note, count in s.notes.items()]
    table = console.table(f"Records in {target}", columns, rows)
    console.result({"output_dir": str(target), "splits": [asdict(s) for s in summaries]}, table, *lines)
