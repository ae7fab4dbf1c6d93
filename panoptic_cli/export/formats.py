"""Exporting in any of the formats: what goes together, where the output goes, and the export itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

from panoptic_cli import models, storage
from panoptic_cli.errors import UsageError
from panoptic_cli.runs.model_source import ModelSource
from panoptic_cli.startup import import_tensorflow, require_tensorflow

FileFormat: TypeAlias = Literal["saved_model", "tflite", "onnx"]
InputType: TypeAlias = Literal["image_tensor", "image_bytes", "tf_example"]

_NAMES: dict[FileFormat, str] = {"saved_model": "saved_model", "tflite": "model.tflite", "onnx": "model.onnx"}


def check_options(
    file_format: FileFormat, input_type: str | None, batch_size: int | None, precision: str | None
) -> None:
    """Checks that the options apply to a format.

    Raises:
        UsageError: one does not.
    """
    if file_format == "saved_model":
        return
    if input_type is not None or batch_size not in (None, 1) or precision not in (None, "float32"):
        raise UsageError(
            f"--format {file_format} contains only the network, in float32, for one preprocessed picture per call.",
            "Omit --input-type, --batch-size and --precision.",
        )


def parse_image_size(text: str) -> tuple[int, int]:
    """Parses HEIGHT,WIDTH or one number for both, in pixels.

    Raises:
        UsageError: the text is neither.
    """
    parts = text.replace("x", ",").split(",")
    if len(parts) == 1:
        parts *= 2
    if len(parts) != 2 or not all(part.strip().isdecimal() for part in parts):
        raise UsageError(f"--image-size '{text}' is not HEIGHT,WIDTH.", "For example: --image-size 512,512.")
    return int(parts[0]), int(parts[1])


def with_image_size(source: ModelSource, size: tuple[int, int] | None) -> ModelSource:
    """Returns a model whose network has another input size (height, width); the same model for None.

    Raises:
        ConfigError: the network cannot have this size.
    """
    return source if size is None else replace(source, experiment=models.with_input_size(source.experiment, *size))


def default_output(model_dir: Path | None, checkpoint: str | None, source: ModelSource, file_format: FileFormat) -> str:
    """Returns the path to export to if none is given: in the run directory.

    Args:
        model_dir: the run directory that was named; None: the default one.
        checkpoint: the checkpoint that was named.
        source: the model that they lead to.
        file_format: the format.

    Raises:
        UsageError: a checkpoint was named, but no run directory.
    """
    if model_dir is None and checkpoint is not None:
        raise UsageError("--checkpoint without --model-dir needs --output.")
    return f"{storage.normalize(model_dir or source.checkpoint)}/{_NAMES[file_format]}"


def export_model(
    source: ModelSource, output: str, file_format: FileFormat, input_type: InputType, batch_size: int | None
) -> dict[str, Any]:
    """Loads a model and exports it. What can be checked without the network is checked first.

    Args:
        source: the model.
        output: folder of a SavedModel, or file to write; local or in a bucket.
        file_format: the format.
        input_type: what a SavedModel takes.
        batch_size: pictures of a call of a SavedModel; None: any number.

    Returns:
        The description of the exported model; see `export_saved_model` and `export_portable`.

    Raises:
        PanopticError: the model cannot be loaded, or the output cannot be written.
    """
    require_tensorflow()
    checkpoint = source.fetch()
    import_tensorflow(models.prefers_onednn(source.experiment))
    from panoptic_cli.export import output as output_files
    from panoptic_cli.export import portable_model, saved_model
    from panoptic_cli.inference.predictor import load_model

    if file_format == "saved_model":
        output_files.check_folder(output)
    else:
        portable_model.check_packages(file_format)
        output_files.check_file(output)
    model = load_model(source.experiment, source.table, checkpoint)
    if file_format == "saved_model":
        return saved_model.export_saved_model(model, output, input_type=input_type, batch_size=batch_size)
    return portable_model.export_portable(model, output, file_format)
