"""TensorFlow Lite and ONNX files: the network alone, with the picture's preparation and the fusion left to the user."""

from __future__ import annotations

import importlib.util
import logging
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tensorflow as tf

from panoptic_cli import storage
from panoptic_cli.errors import RunError, UsageError
from panoptic_cli.export.description import Output, describe
from panoptic_cli.export.output import check_file, whole
from panoptic_cli.export.portable_network import portable_outputs
from panoptic_cli.files import write_json
from panoptic_cli.inference.predictor import LoadedModel

_OPSET = 17
_CONTENTS = (
    "the network alone, for one picture: input `images` is float32 [1, height, width, 3] as preprocessing says; "
    "the fusion of things and stuff works at each picture's own size and is left to the user"
)

OUTPUTS = {
    "detection_boxes": Output("float32", (1, "n", 4), "y1, x1, y2, x2 in pixels of the network's input"),
    "detection_scores": Output("float32", (1, "n"), "0..1, descending; 0 behind the last detection"),
    "detection_classes": Output("int32", (1, "n"), "places in class_category_ids; 0 behind the last detection"),
    "detection_masks": Output("float32", (1, "n", "m", "m"), "probabilities within the box, 0..1"),
    "num_detections": Output("int32", (1,), "how many detections there are"),
    "semantic_logits": Output(
        "float32", (1, "height / 4", "width / 4", "classes"), "scores of the places in semantic_category_ids"
    ),
}


def check_packages(file_format: str) -> None:
    """Checks that what a format needs is installed.

    Raises:
        UsageError: it is not.
    """
    if file_format == "onnx" and importlib.util.find_spec("tf2onnx") is None:
        raise UsageError("Export to ONNX needs the package tf2onnx.", "pip install tf2onnx")


def export_portable(model: LoadedModel, output: str | Path, file_format: str) -> dict[str, Any]:
    """Writes the network as one file, with its description beside it as <output>.json; each whole or not at all.

    Args:
        model: the network, in float32.
        output: file to write, local or in a bucket; an older one is replaced.
        file_format: tflite (built-in operations only) or onnx (opset 17).

    Returns:
        The description and, by the format's name, where the file is.

    Raises:
        UsageError: a package is missing.
        DataError: there is a folder of that name.
        RunError: the converter cannot carry the network, with its reason, or the file cannot be written.
    """
    check_packages(file_format)
    output = storage.normalize(output)
    check_file(output)
    description = describe(
        model, file_format=file_format, outputs=OUTPUTS, input_type="images", batch_size=1, contents=_CONTENTS
    )
    description["class_category_ids"] = model.label_space.thing_ids.tolist()
    description["semantic_category_ids"] = model.label_space.semantic_ids.tolist()
    convert: Callable[[LoadedModel], bytes] = _to_tflite if file_format == "tflite" else _to_onnx
    try:
        content = convert(model)
    except Exception as error:  # converters tell what they cannot carry by many classes of error
        # TensorFlow Lite's converter lists the operations it cannot carry behind pages of locations.
        listed = re.findall(r"(?:TF Select|Custom) ops: [^\n]*", str(error))
        reason = " ".join(("; ".join(listed) or str(error)).split())[:300]
        raise RunError(
            f"The network cannot be converted to {file_format}: {reason}.",
            "Export a SavedModel, which holds everything.",
        ) from error
    with whole(f"{output}.json") as partial:
        write_json(partial, description)
    with whole(output) as partial:
        partial.write_bytes(content)
    return {file_format: output, **description}


def _function(model: LoadedModel, elementary: bool) -> tuple[tf.types.experimental.PolymorphicFunction, tf.TensorSpec]:
    spec = tf.TensorSpec([1, *model.input_size, 3], tf.float32, name="images")

    def forward(images: tf.Tensor) -> dict[str, tf.Tensor]:
        return portable_outputs(model.network, images, elementary)

    return tf.function(forward, input_signature=[spec], autograph=False), spec


def _to_tflite(model: LoadedModel) -> bytes:
    module = tf.Module()
    module.forward, _ = _function(model, elementary=True)
    module.weights = [variable.value for variable in model.network.variables]
    with tempfile.TemporaryDirectory() as folder:
        # By way of a SavedModel, so that inputs and outputs keep their names.
        tf.saved_model.save(module, folder, signatures={"serving_default": module.forward})
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=["serving_default"])
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        return bytes(converter.convert())


def _to_onnx(model: LoadedModel) -> bytes:
    import tf2onnx

    logging.getLogger("tf2onnx").setLevel(logging.CRITICAL)  # what goes wrong comes as an exception
    function, spec = _function(model, elementary=False)
    proto, _ = tf2onnx.convert.from_function(function, [spec], opset=_OPSET)
    return bytes(proto.SerializeToString())
