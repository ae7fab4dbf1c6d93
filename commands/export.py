"""`panoptic export`: a SavedModel, or the network for TensorFlow Lite or ONNX."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer

from panoptic_cli import console

from . import options as o


def export(
    context: typer.Context,
    model_dir: o.ModelDir = None,
    checkpoint: o.Checkpoint = None,
    experiment: o.ExperimentName = None,
    config_file: o.ConfigFile = None,
    settings: o.Settings = None,
    categories: o.CategoriesFile = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            envvar="PANOPTIC_OUTPUT",
            metavar="PATH",
            help="Folder of the SavedModel, or file to write; may be gs://.",
            show_default="<model-dir>/saved_model",
        ),
    ] = None,
    file_format: Annotated[
        Literal["saved_model", "tflite", "onnx"],
        typer.Option(
            "--format",
            metavar="NAME",
            help="saved_model, tflite or onnx; the last two without preprocessing and fusion.",
        ),
    ] = "saved_model",
    input_type: Annotated[
        Literal["image_tensor", "image_bytes", "tf_example"] | None,
        typer.Option(
            "--input-type",
            metavar="NAME",
            help="image_tensor (uint8), image_bytes (JPEG or PNG) or tf_example (records).",
            show_default="image_tensor",
        ),
    ] = None,
    image_size: Annotated[
        str | None,
        typer.Option("--image-size", metavar="H,W", help="Input size of the network.", show_default="as trained"),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", min=1, metavar="N", help="Fix the batch size.", show_default="any")
    ] = None,
    precision: o.Precision = None,
    dry_run: o.DryRun = False,
    json_output: o.Json = False,
) -> None:
    """Write a SavedModel with preprocessing, network and fusion. It runs without this package.

    Examples:
        panoptic export --model-dir runs/panoptic_fpn_coco --output exported
        panoptic export --checkpoint panoptic_fpn_r50_3x --output exported
        panoptic export --format tflite --image-size 512,512 --output model.tflite
    """
    from panoptic_cli import storage
    from panoptic_cli.export import formats
    from panoptic_cli.runs.model_source import find_model

    formats.check_options(file_format, input_type, batch_size, precision)
    size = None if image_size is None else formats.parse_image_size(image_size)
    options: list[tuple[str, Any]] = o.given(
        ("task.categories_file", categories),
        ("runtime.mixed_precision_dtype", precision if file_format == "saved_model" else "float32"),
    )
    model_dir = o.run_directory(context, model_dir, checkpoint)
    source = find_model(
        model_dir, checkpoint, experiment=experiment, config_file=config_file, settings=settings, options=options
    )
    source = formats.with_image_size(source, size)
    target = storage.normalize(output or formats.default_output(model_dir, checkpoint, source, file_format))
    input_type = input_type or "image_tensor"
    if dry_run:
        what = f"for {input_type}" if file_format == "saved_model" else f"as {file_format}"
        console.result(
            {"checkpoint": source.checkpoint, file_format: target, "input_type": input_type},
            f"Would export {source.checkpoint} to {target} {what}.",
        )
        return
    _show(formats.export_model(source, target, file_format, input_type, batch_size))


def _show(description: dict[str, Any]) -> None:
    """Prints what was exported."""
    from panoptic_cli.export.description import weights_text

    file_format = description["format"]
    height, width = description["input_size"]
    what = f"{description['input_type']}, " if file_format == "saved_model" else ""
    console.result(
        description,
        f"{file_format} {description[file_format]}: {what}network input {height}x{width}, {weights_text(description)}",
        f"It contains {description['contents']}.",
    )
