"""What an exported model says about itself: outputs, preprocessing, weights, categories."""

from __future__ import annotations

from typing import Any, NamedTuple

from panoptic_cli.inference.predictor import LoadedModel
from panoptic_cli.pipeline.preprocessing import MEAN, STDDEV

ANY_THING = -1  # in semantic_category_map: the semantic head does not tell things apart


class Output(NamedTuple):
    """One output.

    Attributes:
        dtype: TensorFlow's name of it.
        shape: a letter stands for a size that the picture or the network decides.
        meaning: content, unit and range.
    """

    dtype: str
    shape: tuple[str | int, ...]
    meaning: str


def describe(
    model: LoadedModel,
    *,
    file_format: str,
    outputs: dict[str, Output],
    input_type: str,
    batch_size: int | None,
    contents: str,
) -> dict[str, Any]:
    """Builds the description of an exported model.

    Args:
        model: the network.
        file_format: saved_model, tflite or onnx.
        outputs: by name.
        input_type: what it takes.
        batch_size: pictures of a call; None: any.
        contents: what the model holds, and what is left to its user.

    Returns:
        An object for JSON.
    """
    fusion = model.experiment.task.model.panoptic_segmentation_generator
    return {
        "format": file_format,
        "contents": contents,
        "input_type": input_type,
        "batch_size": batch_size,
        "input_size": list(model.input_size),
        "outputs": {name: output._asdict() for name, output in outputs.items()},
        "checkpoint": model.source,
        "step": model.step,
        "averaged": model.averaged,
        "preprocessing": {
            "color_order": "RGB",
            "exif_orientation": "not applied: turn the picture before",
            "resize": "bilinear without antialiasing, to the largest size of the same aspect that fits input_size",
            "mean": [255.0 * value for value in MEAN],
            "stddev": [255.0 * value for value in STDDEV],
            "padding": "zeros after normalisation, at the bottom and on the right",
        },
        "fusion": fusion.model_dump(mode="json"),
        "categories": model.table.to_list(),
    }


def weights_text(description: dict[str, Any]) -> str:
    """Says in words which weights an exported model holds."""
    step = "" if description["step"] is None else f" of step {description['step']}"
    return f"{'averaged weights (EMA)' if description['averaged'] else 'weights'}{step}"
