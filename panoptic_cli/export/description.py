"""What an exported model says about itself: outputs, preprocessing, weights, categories."""

from __future__ import annotations

from typing import Any

from panoptic_cli.inference.predictor import LoadedModel
from panoptic_cli.models.network import TensorDescription


def describe(
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
        outputs: by name.
        input_type: what it takes.
        batch_size: pictures of a call; None: any number.
        contents: what the model contains, and what is left to its user.

    Returns:
        An object for JSON.
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
    """Says in words which weights an exported model holds."""
    step = "" if description["step"] is None else f" of step {description['step']}"
    return f"{'averaged weights (EMA)' if description['averaged'] else 'weights'}{step}"
