"""`panoptic export`: a SavedModel."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from panoptic_cli import console
from panoptic_cli.errors import UsageError

from . import options as o
from .model_source import find_model


def export(
    model_dir: o.ModelDir = None,
    checkpoint: o.Checkpoint = None,
    experiment: o.ExperimentName = None,
    config_file: o.ConfigFile = None,
    settings: o.Settings = None,
    categories: o.CategoriesFile = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            envvar="PANOPTIC_OUTPUT",
            help="Folder of the SavedModel.",
            show_default="<model-dir>/saved_model",
        ),
    ] = None,
    input_type: Annotated[
        Literal["image_tensor", "image_bytes", "tf_example"],
        typer.Option("--input-type", help="uint8 pictures of any size, JPEG / PNG strings, or records."),
    ] = "image_tensor",
    image_size: Annotated[
        str | None,
        typer.Option("--image-size", metavar="H,W", help="Input size of the network.", show_default="as trained"),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", min=1, help="Fix the batch size.", show_default="any")
    ] = None,
    precision: o.Precision = None,
    dry_run: o.DryRun = False,
    json_output: o.Json = False,
) -> None:
    """Write a SavedModel with preprocessing, network and fusion inside; it runs without this package.

    Example: panoptic export --model-dir runs/my_run --output exported
    """
    options: list[tuple[str, Any]] = o.given(
        ("task.categories_file", categories), ("runtime.mixed_precision_dtype", precision)
    )
    if image_size is not None:
        options.append(("task.model.input_size", _image_size(image_size)))
    source = find_model(
        model_dir, checkpoint, experiment=experiment, config_file=config_file, settings=settings, options=options
    )
    if output is None:
        if model_dir is None and checkpoint is not None:
            raise UsageError("--checkpoint without a run directory needs --output.")
        output = Path(model_dir or source.checkpoint) / "saved_model"
    if dry_run:
        console.result(
            {"checkpoint": source.checkpoint, "saved_model": str(output), "input_type": input_type},
            f"Would export {source.checkpoint} to {output} for {input_type}.",
        )
        return
    from panoptic_cli.startup import import_tensorflow

    import_tensorflow()
    from panoptic_cli.export.saved_model import check_output, export_saved_model
    from panoptic_cli.inference import load_model

    check_output(output)
    model = load_model(source.experiment, source.table, source.checkpoint)
    written = export_saved_model(model, output, input_type=input_type, batch_size=batch_size)
    console.result(
        written,
        f"SavedModel {output}: {input_type}, network input {model.input_size[0]}x{model.input_size[1]}"
        + (f", step {model.step}" if model.step is not None else ""),
    )


def _image_size(text: str) -> list[int]:
    parts = text.replace("x", ",").split(",")
    if len(parts) == 1:
        parts *= 2
    if len(parts) != 2 or not all(part.strip().isdecimal() for part in parts):
        raise UsageError(f"--image-size '{text}' is not HEIGHT,WIDTH.", "For example: --image-size 512,512.")
    return [int(parts[0]), int(parts[1]), 3]
