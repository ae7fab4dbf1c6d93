"""`panoptic export`: a SavedModel, or the network for TensorFlow Lite or ONNX."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer

from panoptic_cli import console
from panoptic_cli.errors import UsageError

from . import options as o

_NAMES = {"saved_model": "saved_model", "tflite": "model.tflite", "onnx": "model.onnx"}


def export(
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
            help="saved_model; or tflite or onnx, the network alone without preprocessing and fusion.",
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
    """Write a SavedModel with preprocessing, network and fusion inside; it runs without this package.

    Examples:
        panoptic export --model-dir runs/panoptic_fpn_coco --output exported
        panoptic export --format tflite --image-size 512,512 --output model.tflite
    """
    if file_format != "saved_model":
        if input_type is not None or batch_size not in (None, 1) or precision not in (None, "float32"):
            raise UsageError(
                f"--format {file_format} holds the network alone: one prepared picture a call, in float32.",
                "Leave --input-type, --batch-size and --precision out.",
            )
        precision = "float32"
    options: list[tuple[str, Any]] = o.given(
        ("task.categories_file", categories), ("runtime.mixed_precision_dtype", precision)
    )
    if image_size is not None:
        options.append(("task.model.input_size", _image_size(image_size)))
    from panoptic_cli.runs.model_source import find_model

    source = find_model(
        model_dir, checkpoint, experiment=experiment, config_file=config_file, settings=settings, options=options
    )
    from panoptic_cli import storage

    if output is None:
        if model_dir is None and checkpoint is not None:
            raise UsageError("--checkpoint without a run directory needs --output.")
        output = f"{storage.normalize(model_dir or source.checkpoint)}/{_NAMES[file_format]}"
    output = storage.normalize(output)
    input_type = input_type or "image_tensor"
    if dry_run:
        what = f"for {input_type}" if file_format == "saved_model" else f"as {file_format}"
        console.result(
            {"checkpoint": source.checkpoint, file_format: output, "input_type": input_type},
            f"Would export {source.checkpoint} to {output} {what}.",
        )
        return
    from panoptic_cli.startup import import_tensorflow

    import_tensorflow()
    from panoptic_cli.export.description import weights_text
    from panoptic_cli.export.output import check_file, check_folder
    from panoptic_cli.inference.predictor import load_model

    if file_format == "saved_model":
        from panoptic_cli.export.saved_model import export_saved_model

        check_folder(output)
        model = load_model(source.experiment, source.table, source.checkpoint)
        written = export_saved_model(model, output, input_type=input_type, batch_size=batch_size)
    else:
        from panoptic_cli.export.portable_model import check_packages, export_portable

        check_packages(file_format)
        check_file(output)
        model = load_model(source.experiment, source.table, source.checkpoint)
        written = export_portable(model, output, file_format)
    height, width = model.input_size
    what = f"{written['input_type']}, " if file_format == "saved_model" else ""
    console.result(
        written,
        f"{file_format} {output}: {what}network input {height}x{width}, {weights_text(written)}",
        f"It holds {written['contents']}.",
    )


def _image_size(text: str) -> list[int]:
    parts = text.replace("x", ",").split(",")
    if len(parts) == 1:
        parts *= 2
    if len(parts) != 2 or not all(part.strip().isdecimal() for part in parts):
        raise UsageError(f"--image-size '{text}' is not HEIGHT,WIDTH.", "For example: --image-size 512,512.")
    return [int(parts[0]), int(parts[1]), 3]
