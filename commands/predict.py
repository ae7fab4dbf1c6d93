"""`panoptic predict`: overlays, panoptic PNGs and JSON files of pictures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from panoptic_cli import console
from panoptic_cli.errors import DataError, UsageError

from . import options as o
from .model_loading import load, refuse_cluster

if TYPE_CHECKING:
    from panoptic_cli.inference.pictures import PicturePredictor, PredictionSummary
    from panoptic_cli.runs.model_source import ModelSource

_DRAWING = "Drawing"


def predict(
    context: typer.Context,
    pictures: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PICTURE",
            help="Pictures, folders or patterns; - reads a list from stdin.",
            show_default=False,
        ),
    ] = None,
    list_file: Annotated[
        Path | None,
        typer.Option("--list", metavar="FILE", help="Text file with one picture, folder or pattern per line."),
    ] = None,
    model_dir: o.ModelDir = None,
    checkpoint: o.Checkpoint = None,
    saved_model: Annotated[
        str | None,
        typer.Option(
            "--saved-model",
            metavar="DIR",
            help="An exported SavedModel instead of a run.",
            rich_help_panel=o.RUN,
        ),
    ] = None,
    experiment: o.ExperimentName = None,
    config_file: o.ConfigFile = None,
    settings: o.Settings = None,
    categories: o.CategoriesFile = None,
    image_info: Annotated[
        Path | None,
        typer.Option(
            "--image-info",
            metavar="FILE",
            help="COCO JSON with the image ids.",
            show_default="ids are the file names",
        ),
    ] = None,
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
            help="Keep only detections with a higher score.",
            show_default="as configured",
            rich_help_panel=_DRAWING,
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, metavar="N", help="Pictures per step.")] = 1,
    alpha: Annotated[
        float,
        typer.Option(
            "--alpha",
            min=0.0,
            max=1.0,
            metavar="X",
            help="Opacity of the colours; 0 draws nothing.",
            rich_help_panel=_DRAWING,
        ),
    ] = 0.5,
    sheet: Annotated[
        Path | None,
        typer.Option(
            "--contact-sheet",
            metavar="FILE",
            help="Also put all overlays in one picture.",
            rich_help_panel=_DRAWING,
        ),
    ] = None,
    exif: Annotated[
        Literal["apply", "ignore"],
        typer.Option("--exif", help="EXIF orientation of the pictures."),
    ] = "apply",
    max_pixels: o.MaxPixels = None,
    precision: o.Precision = None,
    gpus: o.Gpus = None,
    dry_run: o.DryRun = False,
    json_output: o.Json = False,
) -> int:
    """Segment pictures: write an overlay and a panoptic PNG of each, and one pred.json in COCO's format.

    After Ctrl-C, the same command goes on with the rest.

    Examples:
        panoptic predict photo.jpg --checkpoint panoptic_fpn_r50_3x
        panoptic predict photos/ --model-dir runs/panoptic_fpn_coco --output out
        panoptic predict 'photos/*.jpg' --saved-model exported --output out
    """
    from panoptic_cli.files import check_writable
    from panoptic_cli.images.contact_sheet import sheet_format, write_contact_sheet
    from panoptic_cli.runs.model_source import find_model

    if sheet is not None:
        sheet_format(sheet)
        check_writable(sheet, "--contact-sheet")
    check_writable(output / "pred.json", "--output")
    files = _with_ids(_find_pictures(pictures or [], list_file, output), image_info)
    source: ModelSource | str
    if saved_model is not None:
        typed = model_dir if o.typed(context, "model_dir") else None
        others = (typed, checkpoint, experiment, config_file, settings, categories, precision, gpus)
        _check_saved_model(saved_model, others)
        source = saved_model
    else:
        refuse_cluster("predicts")
        source = find_model(
            o.run_directory(context, model_dir, checkpoint),
            checkpoint,
            experiment=experiment,
            config_file=config_file,
            settings=settings,
            options=o.given(
                ("task.categories_file", categories),
                ("runtime.mixed_precision_dtype", precision),
                ("runtime.num_gpus", gpus),
            ),
        )
    if dry_run:
        return _print_plan(source, files, output)
    predictor, step = _load(source, score_threshold, gpus)
    from panoptic_cli.inference.pictures import predict_pictures

    name = f"{source if isinstance(source, str) else source.checkpoint}, step {step}"
    summary = predict_pictures(predictor, files, output, source=name, batch_size=batch_size, alpha=alpha, exif=exif)
    if sheet is not None and summary.overlays:
        write_contact_sheet(summary.overlays, sheet)
    return _print_result(summary, output, sheet, step)


def _find_pictures(pictures: list[str], list_file: Path | None, output: Path) -> list[Path]:
    from panoptic_cli.images.pictures import find_pictures, read_list

    named = [item for item in pictures if item != "-"]
    lists = [*(["-"] if "-" in pictures else []), *([str(list_file)] if list_file else [])]
    if not named and not lists:
        raise UsageError("There are no pictures to predict.", "Give pictures, folders or patterns, or --list FILE.")
    from_list = [line for source in lists for line in read_list(source)]
    return find_pictures(named, from_list=from_list, skip=[output / "overlay", output / "pred"])


def _with_ids(files: list[Path], image_info: Path | None) -> dict[Path, int | str]:
    """Returns {file: image id}."""
    from panoptic_cli.coco.picture_ids import image_ids

    found = image_ids(files, image_info)
    if any(isinstance(identifier, str) for identifier in found.values()) and image_info is None:
        console.info("The image ids are the file names, which are no numbers; --image-info FILE gives other ids.")
    return found


def _check_saved_model(path: str, others: tuple[object, ...]) -> None:
    """Checks --saved-model before TensorFlow is imported."""
    from panoptic_cli import storage

    if any(value is not None and value != [] for value in others):
        raise UsageError(
            "--saved-model has its own weights, configuration and categories, and uses all devices that are visible.",
            "Omit --model-dir, --checkpoint, --experiment, --config, --set, --categories, --precision and --gpus "
            "(CUDA_VISIBLE_DEVICES= selects the CPU).",
        )
    if not storage.is_remote(path) and not storage.is_directory(path):
        raise DataError(f"{path} does not exist.", "Give --saved-model the folder that panoptic export wrote.")


def _load(
    source: ModelSource | str, score_threshold: float | None, gpus: int | None
) -> tuple[PicturePredictor, int | None]:
    """Returns what predicts, and the training step of its weights."""
    if isinstance(source, str):
        from panoptic_cli.startup import import_tensorflow

        import_tensorflow()
        from panoptic_cli.export.exported_model import ExportedModel

        exported = ExportedModel(source, score_threshold)
        return exported, exported.step
    model = load(source, gpus)
    from panoptic_cli.inference.predictor import Predictor

    return Predictor(model, score_threshold), model.step


def _print_plan(source: ModelSource | str, files: Mapping[Path, int | str], output: Path) -> int:
    model = source if isinstance(source, str) else source.checkpoint
    console.result(
        {"model": model, "pictures": [str(file) for file in files], "output": str(output)},
        f"Would predict {len(files)} pictures with {model} into {output}.",
    )
    return 0


def _print_result(summary: PredictionSummary, output: Path, sheet: Path | None, step: int | None) -> int:
    """Prints the result; returns the exit code."""
    done, failed = len(summary.overlays), len(summary.failed)
    console.result(
        {
            "output": str(output),
            "overlays": [str(path) for path in summary.overlays],
            "predictions": str(output / "pred.json"),
            "contact_sheet": str(sheet) if sheet is not None and summary.overlays else None,
            "failed": summary.failed,
            "notes": dict(summary.notes),
            "step": step,
        },
        f"{done} pictures in {output}: overlay/, pred/, pred.json, detections.json"
        if done
        else f"No picture can be read; {output} is as it was.",
        *(f"{count:,} {note}" for note, count in summary.notes.items()),
    )
    if failed and done:
        console.warn(f"{failed} of {done + failed} pictures cannot be read; the others are done.")
    return 1 if failed else 0
