"""TensorFlow Lite and ONNX files, which contain only the network. Preprocessing and fusion are left to the user."""

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
from panoptic_cli.errors import RunError, UsageError, one_line
from panoptic_cli.export.description import describe_model
from panoptic_cli.export.output import check_file, whole
from panoptic_cli.files import write_json
from panoptic_cli.inference.predictor import LoadedModel
from panoptic_cli.models.platform import Platform
from panoptic_cli.pipeline.preprocessing import Geometry

_OPSET = 17
_CONTENTS = (
    "the network alone, for one picture: input `images` is float32 [1, height, width, 3], prepared as described in "
    "`preprocessing`; the fusion of things and stuff, which depends on the size of each picture, is left to the user"
)


def check_packages(file_format: str) -> None:
    """Checks that the packages that a format needs are installed.

    Raises:
        UsageError: a package is missing.
    """
    if file_format == "onnx" and importlib.util.find_spec("tf2onnx") is None:
        raise UsageError("Export to ONNX needs the package tf2onnx.", "Run: pip install 'panoptic-cli[onnx]'")


def export_portable(model: LoadedModel, output: str | Path, file_format: str) -> dict[str, Any]:
    """Writes the network as one file, and its description as <output>.json, each completely or not at all.

    Args:
        model: the network, in float32.
        output: the file to write, local or in a bucket; an existing file is replaced.
        file_format: tflite (built-in operations only) or onnx (opset 17).

    Returns:
        The description, with the path of the file under the name of the format.

    Raises:
        UsageError: a package is missing.
        DataError: a folder of that name exists.
        RunError: the converter does not support the network, or the file cannot be written.
    """
    check_packages(file_format)
    output = storage.normalize(output)
    check_file(output)
    description = describe_model(
        model,
        file_format=file_format,
        outputs=model.network.describe_outputs(),
        input_type="images",
        batch_size=1,
        contents=_CONTENTS,
    )
    description |= model.network.describe_classes()
    convert: Callable[[LoadedModel], bytes] = _to_tflite if file_format == "tflite" else _to_onnx
    try:
        content = convert(model)
    except Exception as error:  # converters raise many classes of errors for what they do not support
        # TensorFlow Lite's converter lists unsupported operations after pages of locations.
        listed = re.findall(r"(?:TF Select|Custom) ops: [^\n]*", str(error))
        reason = one_line("; ".join(listed) or error)
        raise RunError(
            f"The network cannot be converted to {file_format}: {reason}.",
            "Export a SavedModel, which supports all operations.",
        ) from error
    # Both are complete before either is in place: the description of another model would mislead.
    with whole(f"{output}.json") as partial:
        write_json(partial, description)
        with whole(output) as partial_model:
            partial_model.write_bytes(content)
    return {file_format: output, **description}


def _function(
    model: LoadedModel, platform: Platform
) -> tuple[tf.types.experimental.PolymorphicFunction, tf.TensorSpec]:
    size = model.input_size
    spec = tf.TensorSpec([1, *size, 3], tf.float32, name="images")

    def forward(images: tf.Tensor) -> dict[str, tf.Tensor]:
        whole_input = tf.constant([size], tf.float32)
        geometry = Geometry(whole_input, whole_input, tf.ones([1, 2]), tf.zeros([1, 2]))
        outputs: dict[str, tf.Tensor] = model.network(images, geometry, platform=platform)
        return outputs

    return tf.function(forward, input_signature=[spec], autograph=False), spec


def _to_tflite(model: LoadedModel) -> bytes:
    module = tf.Module()
    module.forward, _ = _function(model, "tflite")
    module.weights = [variable.value for variable in model.network.variables]
    with tempfile.TemporaryDirectory() as folder:
        # Convert through a SavedModel, so that inputs and outputs keep their names.
        tf.saved_model.save(module, folder, signatures={"serving_default": module.forward})
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=["serving_default"])
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        return bytes(converter.convert())


def _to_onnx(model: LoadedModel) -> bytes:
    import tf2onnx

    logging.getLogger("tf2onnx").setLevel(logging.CRITICAL)  # errors are raised as exceptions
    function, spec = _function(model, "onnx")
    proto, _ = tf2onnx.convert.from_function(function, [spec], opset=_OPSET)
    return bytes(proto.SerializeToString())
