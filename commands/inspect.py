"""`panoptic inspect`: checks a data set or records, counts what is in them, draws samples."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from panoptic_cli import console
from panoptic_cli.errors import UsageError, counted

from . import custom_data as custom
from . import options as o
from .help_pages import HelpAll

if TYPE_CHECKING:
    from panoptic_cli.inspection.inspection import Source

_DRAWING = "Drawing"
RARE = ("--config", "--set", "--categories", "--exif", "--max-pixels")


def inspect(
    data: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="DATA",
            envvar="PANOPTIC_DATA_DIR",
            help="Data set folder, or records (files, folders or quoted patterns).",
            show_default=str(o.DEFAULT_DATA_DIR),
        ),
    ] = None,
    image_dir: custom.ImageDir = None,
    panoptic_annotations: custom.PanopticAnnotations = None,
    panoptic_masks: custom.PanopticMasks = None,
    object_annotations: custom.ObjectAnnotations = None,
    draw: Annotated[
        int, typer.Option("--draw", min=0, metavar="N", help="Draw N samples of each split.", rich_help_panel=_DRAWING)
    ] = 0,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            envvar="PANOPTIC_OUTPUT",
            metavar="DIR",
            help="Output folder for --draw.",
            rich_help_panel=_DRAWING,
        ),
    ] = None,
    augmented: Annotated[
        bool,
        typer.Option(
            "--augmented",
            help="Draw augmented training examples from records.",
            rich_help_panel=_DRAWING,
        ),
    ] = False,
    experiment: o.ExperimentName = None,
    config_file: o.ConfigFile = None,
    settings: o.Settings = None,
    categories: o.CategoriesFile = None,
    exif: o.AnnotatedExif = None,
    max_pixels: o.MaxPixels = None,
    workers: Annotated[
        int | None,
        typer.Option("--workers", min=1, metavar="N", help="Number of processes.", show_default="one per CPU"),
    ] = None,
    json: o.Json = False,
    help_all: HelpAll = False,
) -> None:
    """Check a data set or records and count what is in them.

    Lists every problem at once, with the first few of each kind. The exit code is 1 if there are errors, and 0 if there
    are only warnings. --experiment, --config and --set say which configuration must fit the data.

    Examples:
        panoptic inspect data/coco --draw 4 --output samples
        panoptic inspect data/coco/tfrecords/val-*
    """
    from panoptic_cli import config, models
    from panoptic_cli.coco.layout import OwnFiles
    from panoptic_cli.inspection.inspection import find_source, inspect_source
    from panoptic_cli.training.examples import find_examples

    from .inspection_report import inspection_lines

    _check_drawing(draw, output, augmented)
    name = experiment or config.DEFAULT_EXPERIMENT
    configuration = config.load_experiment(name, config_file=config_file, settings=settings or ())
    own = OwnFiles(image_dir, panoptic_annotations, panoptic_masks, object_annotations)
    source = find_source([str(path) for path in data or ()], own, o.DEFAULT_DATA_DIR, exif)
    examples = None
    if augmented:
        examples = find_examples(_training_records(source), categories, experiment, config_file, settings)
    table_file = Path(categories) if categories else None
    found = inspect_source(source, workers or os.cpu_count() or 1, 0 if augmented else draw, table_file)
    for findings, sample in found.samples:
        for line in models.data_warnings(configuration, sample):
            findings.add(f"configuration of {configuration.experiment}", line, "warning")
    value, shown = found.to_dict(), inspection_lines(found)
    if draw and output is not None:
        drawn = (examples or found).draw(draw, output)
        value["drawn"] = [str(path) for path in drawn]
        shown.append(f"{counted(len(drawn), 'samples')} drawn in {output}")
    console.result(value, *shown)
    if found.errors:
        raise typer.Exit(1)


def _check_drawing(draw: int, output: Path | None, augmented: bool) -> None:
    if draw and output is None:
        raise UsageError("--draw needs --output, the folder for the drawings.")
    if augmented and not draw:
        raise UsageError("--augmented needs --draw N and --output DIR.")
    if draw and output is not None and output.exists() and not output.is_dir():
        raise UsageError(f"--output {output} is a file.", "Give a folder.")


def _training_records(source: Source) -> list[str]:
    from panoptic_cli import config
    from panoptic_cli.records.files import find_record_files

    return [str(path) for path in source.records] or find_record_files(
        config.default_records(source.paths[0])[0],
        what="training records",
        hint="--augmented draws from records: run panoptic make-tfrecords first, or give the records.",
    )
