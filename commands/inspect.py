"""`panoptic inspect`: checks a data set or records, counts what is in them, draws samples."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from panoptic_cli import console
from panoptic_cli.errors import DataError, UsageError

from . import custom_data as custom
from . import options as o

_DRAWING = "Drawing"


def inspect(
    data: Annotated[
        str | None,
        typer.Argument(
            metavar="DATA",
            envvar="PANOPTIC_DATA_DIR",
            help="A data set's folder, or records: a folder or a 'PATTERN'.",
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
            help="Folder for the drawings; goes with --draw.",
            rich_help_panel=_DRAWING,
        ),
    ] = None,
    augmented: Annotated[
        bool,
        typer.Option(
            "--augmented",
            help="Draw what training sees, from records.",
            rich_help_panel=_DRAWING,
        ),
    ] = False,
    experiment: o.ExperimentName = None,
    config_file: o.ConfigFile = None,
    settings: o.Settings = None,
    categories: o.CategoriesFile = None,
    workers: Annotated[
        int | None,
        typer.Option("--workers", min=1, metavar="N", help="Processes.", show_default="one per CPU"),
    ] = None,
    json: o.Json = False,
) -> None:
    """Check a data set or records and count what is in them.

    Lists every problem at once, with the first few of each kind. Ends with exit code 1 when there are errors, with 0
    when there are warnings only. --augmented takes --experiment, --config and --set.

    Examples:
        panoptic inspect data/coco --draw 4 --output samples
        panoptic inspect 'data/coco/tfrecords/val-*'
    """
    _check_drawing(draw, output, augmented, [experiment, config_file, settings])
    processes = workers or os.cpu_count() or 1
    own = [image_dir, panoptic_annotations, panoptic_masks, object_annotations]
    source = data or str(o.DEFAULT_DATA_DIR)
    if any(path is not None for path in own):
        files = [custom.split_files(None, image_dir, panoptic_annotations, panoptic_masks, object_annotations)]
        source = str(panoptic_annotations)
    elif data is None or (Path(data) / "annotations").is_dir():
        from panoptic_cli.coco.layout import find_splits

        files = find_splits(Path(source))
    else:
        files = []
    make_examples = None
    if augmented:
        make_examples = _augmentation(source, bool(files), (experiment, config_file, settings), categories)
    value, shown, drawings = (
        _inspect_dataset(source, files, processes, 0 if augmented else draw)
        if files
        else _inspect_records(source, processes, 0 if augmented else draw, categories)
    )
    drawn: list[Path] = []
    if output is not None and draw:
        if make_examples is not None:
            drawn = make_examples(draw, output)
        else:
            from panoptic_cli.inspection import samples

            drawn = [path for found, table in drawings for path in samples.draw(found, table, output)]
        value["drawn"] = [str(path) for path in drawn]
        shown.append(f"{len(drawn)} samples drawn in {output}")
    console.result(value, *shown)
    if value["errors"]:
        raise typer.Exit(1)


def _check_drawing(draw: int, output: Path | None, augmented: bool, configuration: list[Any]) -> None:
    if draw and output is None:
        raise UsageError("--draw needs --output, the folder for the drawings.")
    if augmented and not draw:
        raise UsageError("--augmented goes with --draw N --output DIR.")
    if any(configuration) and not augmented:
        raise UsageError("--experiment, --config and --set go with --augmented.")
    if draw and output is not None and output.exists() and not output.is_dir():
        raise UsageError(f"--output {output} is a file.", "Give a folder.")


def _inspect_dataset(data: str, files: list[Any], workers: int, draw: int) -> tuple[dict[str, Any], list[Any], Any]:
    from panoptic_cli.inspection import dataset, samples

    from .inspection_report import split_lines

    reports = [dataset.inspect_split(split, workers, draw) for split in files]
    dataset.add_shared_pictures(reports)
    value = {
        "data": data,
        "errors": sum(report.findings.errors for report in reports),
        "warnings": sum(report.findings.count("warning") for report in reports),
        "splits": {report.name: report.to_dict() for report in reports},
    }
    drawings = ((samples.dataset_samples(r.files, r.table, r.samples), r.table) for r in reports)
    return value, split_lines(data, reports), drawings


def _inspect_records(
    data: str, workers: int, draw: int, categories: str | None
) -> tuple[dict[str, Any], list[Any], Any]:
    from panoptic_cli.categories import CategoryTable
    from panoptic_cli.inspection import record_files, samples

    from .inspection_report import record_lines

    paths = record_files.find_records(data)
    report = record_files.inspect_records(paths, workers, Path(categories) if categories else None)
    record_files.compare_with_manifests(report, paths)
    value = {"data": data, **report.to_dict()}
    table = report.table or CategoryTable(())  # without names, ids are drawn
    return value, record_lines(data, report), [(samples.record_samples(paths, draw), table)]


def _augmentation(data: str, is_dataset: bool, configuration: tuple[Any, ...], categories: str | None) -> Any:
    """Checks what --augmented needs; returns the function that draws (count, folder)."""
    from panoptic_cli import config
    from panoptic_cli.categories import CategoryTable, LabelSpace
    from panoptic_cli.coco.layout import CATEGORIES_FILE
    from panoptic_cli.config.load import DEFAULT_EXPERIMENT
    from panoptic_cli.errors import ConfigError
    from panoptic_cli.inspection.record_files import find_records
    from panoptic_cli.models.panoptic_fpn.label_space import label_space_of

    pattern = f"{data}/tfrecords/train-*" if is_dataset else data
    try:
        paths = find_records(pattern)
    except DataError:
        raise DataError(
            f"--augmented draws from training records, and no file matches {pattern}.",
            "Run panoptic make-tfrecords first, then give the records: panoptic inspect 'FOLDER/train-*'.",
        ) from None
    name, config_file, settings = configuration
    loaded = config.load_experiment(
        name or DEFAULT_EXPERIMENT,
        config_file=config_file,
        settings=settings or [],
        options=[("task.train_data.input_path", ",".join(str(path) for path in paths))],
    )
    file = Path(categories) if categories else paths[0].parent / CATEGORIES_FILE
    if not file.is_file():
        raise DataError(f"The category table {file} does not exist.", "Give the panoptic JSON with --categories.")
    table = CategoryTable.from_file(file)
    try:
        space = label_space_of(loaded, table)
    except ConfigError:
        if any(configuration):
            raise
        space = LabelSpace.create(table)  # the preset's sizes are for COCO; drawing needs classes only

    def make(count: int, output: Path) -> list[Path]:
        from panoptic_cli.startup import import_tensorflow

        import_tensorflow()
        from panoptic_cli.inspection import augmented_samples, samples

        found = augmented_samples.examples(loaded, space, count)
        return [
            samples.save(augmented_samples.draw_example(example, space), output, f"augmented-{place:03d}")
            for place, example in enumerate(found)
        ]

    return make
