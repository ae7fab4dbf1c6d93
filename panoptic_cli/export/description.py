"""The description of an exported model: outputs, preprocessing, weights and categories."""

from __future__ import annotations

from typing import Any

from panoptic_cli.inference.predictor import LoadedModel
from panoptic_cli.models.network import TensorDescription


def describe_model(
    model: LoadedModel,
    *,
    file_format: str,
    outputs: dict[str, TensorDescription],
    input_type: str,
    batch_size: int | None,
    contents: str,
) -> dict[str, Any]:
    """Builds the description of an exported model.

    Args:
        model: the network.
        file_format: saved_model, tflite or onnx.
        outputs: the outputs by name.
        input_type: the type of the input.
        batch_size: pictures per call; None: any number.
        contents: what the model contains, and what its user has to do.

    Returns:
        The description, which can be written as JSON.
    """
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
        "preprocessing": model.preprocessing.describe(),
        "fusion": model.network.describe_finish(),
        "score_threshold": model.network.score_threshold,
        "categories": model.table.to_list(),
    }


def weights_text(description: dict[str, Any]) -> str:
    """Describes the weights of an exported model in words."""
    step = "" if description["step"] is None else f" of step {description['step']}"
    return f"{'averaged weights (EMA)' if description['averaged'] else 'weights'}{step}"
