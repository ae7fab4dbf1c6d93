"""`panoptic predict`: overlays, panoptic PNGs and JSON of pictures."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from panoptic_cli import console
from panoptic_cli.errors import DataError, UsageError

from . import options as o
from .model_source import find_model

_DRAWING = "Drawing"


def predict(
    pictures: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PICTURE",
            help="Pictures, folders, patterns; - reads a list from stdin.",
            show_default=False,
        ),
    ] = None,
    list_file: Annotated[
        Path | None,
        typer.Option("--list", metavar="FILE", help="Text file with one of these on each line."),
    ] = None,
    model_dir: o.ModelDir = None,
    checkpoint: o.Checkpoint = None,
    saved_model: Annotated[
        str | None,
        typer.Option(
            "--saved-model", metavar="DIR", help="A SavedModel of panoptic export instead.", rich_help_panel=o.RUN
        ),
    ] = None,
    experiment: o.ExperimentName = None,
    config_file: o.ConfigFile = None,
    settings: o.Settings = None,
    categories: o.CategoriesFile = None,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            envvar="PANOPTIC_OUTPUT",
            metavar="DIR",
            help="Folder for overlays, PNGs and JSON files.",
        ),
    ] = Path("predictions"),
    score_threshold: Annotated[
        float | None,
        typer.Option(
            "--score-threshold",
            min=0.0,
            max=1.0,
            metavar="X",
            help="Keep detections above it.",
            show_default="as configured",
            rich_help_panel=_DRAWING,
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, metavar="N", help="Pictures at once.")] = 1,
    alpha: Annotated[
        float,
        typer.Option(
            "--alpha", min=0.0, max=1.0, metavar="X", help="Opacity; 0 draws nothing.", rich_help_panel=_DRAWING
        ),
    ] = 0.5,
    sheet: Annotated[
        Path | None,
        typer.Option(
            "--contact-sheet",
            metavar="FILE",
            help="Also all overlays on one picture.",
            rich_help_panel=_DRAWING,
        ),
    ] = None,
    precision: o.Precision = None,
    gpus: o.Gpus = None,
    dry_run: o.DryRun = False,
    json_output: o.Json = False,
) -> int:
    """Segment pictures: an overlay and a panoptic PNG of each, one pred.json in COCO's format for all.

    Examples:
        panoptic predict photos/ --model-dir runs/panoptic_fpn_coco --output out
        panoptic predict 'photos/*.jpg' --saved-model exported --output out
    """
    from panoptic_cli import storage
    from panoptic_cli.images.contact_sheet import sheet_format, write_contact_sheet
    from panoptic_cli.images.pictures import find_pictures, read_list

    if sheet is not None:
        sheet_format(sheet)
    named = [item for item in pictures or () if item != "-"]
    lists = [*(["-"] if "-" in (pictures or ()) else []), *([str(list_file)] if list_file else [])]
    if not named and not lists:
        raise UsageError(
            "There are no pictures to predict.", "Name pictures, folders or patterns, or give --list FILE."
        )
    listed = [line for source in lists for line in read_list(source)]
    files = find_pictures(named, listed=listed, skip=[output / "overlay", output / "pred"])
    source = None
    if saved_model is None:
        source = find_model(
            model_dir,
            checkpoint,
            experiment=experiment,
            config_file=config_file,
            settings=settings,
            options=o.given(
                ("task.categories_file", categories),
                ("task.model.panoptic_segmentation_generator.score_threshold", score_threshold),
                ("runtime.mixed_precision_dtype", precision),
                ("runtime.num_gpus", gpus),
            ),
        )
    elif checkpoint or experiment or config_file or settings or categories or precision or gpus is not None:
        raise UsageError(
            "--saved-model holds its own weights, configuration and categories, and takes the devices that it sees.",
            "Leave --checkpoint, --experiment, --config, --set, --categories, --precision and --gpus out "
            "(CUDA_VISIBLE_DEVICES= is the CPU).",
        )
    elif not storage.is_remote(saved_model) and not storage.is_directory(saved_model):
        raise DataError(f"{saved_model} does not exist.", "Give --saved-model the folder that panoptic export wrote.")
    if source is not None and "TF_CONFIG" in os.environ:
        raise UsageError("One process predicts, not the workers of TF_CONFIG.", "Unset TF_CONFIG.")
    what = saved_model if source is None else source.checkpoint
    if dry_run:
        console.result(
            {"model": what, "pictures": [str(f) for f in files], "output": str(output)},
            f"Would predict {len(files)} pictures with {what} into {output}.",
        )
        return 0
    from panoptic_cli.startup import import_tensorflow

    import_tensorflow()
    from panoptic_cli.inference.pictures import PicturePredictor, predict_pictures

    predictor: PicturePredictor
    if source is None:
        assert saved_model is not None
        from panoptic_cli.export.exported_model import ExportedModel

        predictor = exported = ExportedModel(saved_model, score_threshold)
        step, threshold = exported.step, exported.score_threshold
    else:
        from panoptic_cli.inference.predictor import Predictor, inference_strategy, load_model

        strategy = inference_strategy(source.experiment, gpus)
        model = load_model(source.experiment, source.table, source.checkpoint, strategy)
        predictor, step = Predictor(model), model.step
        threshold = source.experiment.task.model.panoptic_segmentation_generator.score_threshold
    summary = predict_pictures(predictor, files, output, batch_size=batch_size, score_threshold=threshold, alpha=alpha)
    if sheet is not None and summary.overlays:
        write_contact_sheet(summary.overlays, sheet)
    console.result(
        {
            "output": str(output),
            "overlays": [str(path) for path in summary.overlays],
            "predictions": str(output / "pred.json"),
            "contact_sheet": str(sheet) if sheet is not None and summary.overlays else None,
            "failed": summary.failed,
            "step": step,
        },
        f"{len(summary.overlays)} pictures in {output}: overlay/, pred/, pred.json, detections.json",
    )
    if summary.failed:
        console.warn(f"{len(summary.failed)} of {len(files)} pictures could not be read; the others are done.")
    return 1 if summary.failed else 0
