"""`panoptic predict`: overlays, panoptic PNGs and JSON files of pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from panoptic_cli import console
from panoptic_cli.errors import DataError, UsageError, counted

from . import options as o
from .help_pages import HelpAll
from .model_loading import load, refuse_cluster
from .wanted_pictures import WantedPictures, archive_path, compare_categories, find_wanted, tell_of_names

if TYPE_CHECKING:
    from panoptic_cli.inference.pictures import PicturePredictor, PredictionSummary
    from panoptic_cli.runs.model_source import ModelSource

_DRAWING = "Drawing"
_SUBMISSION = "COCO's ids and evaluation server"
RARE = (
    *("--list", "--experiment", "--config", "--set", "--categories", "--submission-name"),
    *("--batch-size", "--exif", "--max-pixels", "--precision"),
)


def predict(
    context: typer.Context,
    pictures: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PICTURE",
            help="Pictures, folders or patterns; - is a list on stdin.",
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
            rich_help_panel=_SUBMISSION,
        ),
    ] = None,
    image_dir: Annotated[
        Path | None,
        typer.Option(
            "--image-dir",
            metavar="DIR",
            exists=True,
            file_okay=False,
            help="Its pictures' folder: predict all of them.",
            show_default=False,
            rich_help_panel=_SUBMISSION,
        ),
    ] = None,
    submission_name: Annotated[
        str | None,
        typer.Option(
            "--submission-name",
            metavar="NAME",
            help="Your method's name in COCO's zip.",
            show_default="that of the model",
            rich_help_panel=_SUBMISSION,
        ),
    ] = None,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            envvar="PANOPTIC_OUTPUT",
            metavar="DIR",
            help="Folder of the results. It gets overlays, PNGs and JSON files.",
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
            help="Opacity of the colours. 0 draws nothing.",
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
    help_all: HelpAll = False,
) -> int:
    """Segment pictures: write an overlay and a panoptic PNG of each, and one pred.json in COCO's format.

    With --image-info and --image-dir, it predicts all pictures that the JSON lists, draws nothing, and writes the zip
    that COCO's panoptic evaluation server takes. After Ctrl-C or a kill, the same command goes on with the rest.

    Examples:
        panoptic predict photo.jpg --checkpoint panoptic_fpn_r50_3x
        panoptic predict photos/ --model-dir runs/panoptic_fpn_coco --output out
        panoptic predict 'photos/*.jpg' --saved-model exported --output out
        panoptic predict --image-info image_info_test.json --image-dir test2017
    """
    from panoptic_cli.files import check_writable
    from panoptic_cli.images.contact_sheet import sheet_format, write_contact_sheet
    from panoptic_cli.runs.model_source import find_model

    if sheet is not None:
        sheet_format(sheet)
        check_writable(sheet, "--contact-sheet")
    check_writable(output / "pred.json", "--output")
    wanted = find_wanted(pictures or [], list_file, output, image_info, image_dir, submission_name)
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
    model = source if isinstance(source, str) else source.checkpoint
    archive = archive_path(wanted, submission_name, model, output)
    if dry_run:
        return _print_plan(model, wanted, output, archive)
    if wanted.info is not None and not o.typed(context, "exif"):
        from panoptic_cli.coco.orientations import exif_of_listed

        exif = exif_of_listed(wanted.listed, wanted.info.path)
    if image_info is None:
        tell_of_names(wanted)
    predictor, step = _load(source, score_threshold, gpus)
    from panoptic_cli.inference.pictures import predict_pictures

    if wanted.info is not None:
        compare_categories(wanted.info, predictor.table)
    summary = predict_pictures(
        predictor,
        wanted.files,
        output,
        source=f"{model}, step {step}",
        batch_size=batch_size,
        alpha=alpha,
        exif=exif,
        overlays=archive is None or sheet is not None,  # tens of gigabytes for COCO's test pictures
        listed=wanted.listed or None,
        submission=archive,
    )
    if sheet is not None and summary.overlays:
        write_contact_sheet(summary.overlays, sheet)
    return _print_result(summary, output, sheet, step, archive)


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


def _print_plan(model: str, wanted: WantedPictures, output: Path, archive: Path | None) -> int:
    plan = {
        "model": model,
        "pictures": [str(file) for file in wanted.files],
        "output": str(output),
        "submission": str(archive) if archive is not None else None,
    }
    console.result(
        plan,
        f"Would predict {counted(len(wanted.files), 'pictures')} with {model} into {output}.",
        *([f"Would write {archive}."] if archive is not None else []),
    )
    return 0


def _print_result(
    summary: PredictionSummary, output: Path, sheet: Path | None, step: int | None, archive: Path | None
) -> int:
    """Prints the result; returns the exit code."""
    done, failed = summary.done, len(summary.failed)
    written = [*(["overlay/"] if summary.overlays else []), "pred/", "pred.json", "detections.json"]
    console.result(
        {
            "output": str(output),
            "overlays": [str(path) for path in summary.overlays],
            "predictions": str(output / "pred.json"),
            "submission": str(summary.submission) if summary.submission is not None else None,
            "contact_sheet": str(sheet) if sheet is not None and summary.overlays else None,
            "failed": summary.failed,
            "notes": dict(summary.notes),
            "step": step,
        },
        f"{counted(done, 'pictures')} in {output}: {', '.join(written)}"
        if done
        else f"No picture can be read; {output} is as it was.",
        *([f"For COCO's server: {summary.submission}"] if summary.submission is not None else []),
        *(counted(count, note) for note, count in summary.notes.items()),
    )
    if failed and done:
        console.warn(f"{failed:,} of {counted(done + failed, 'pictures')} cannot be read; the others are done.")
        if archive is not None:
            console.warn(f"{archive} is not written: COCO's server takes only predictions of all pictures.")
    return 1 if failed else 0
