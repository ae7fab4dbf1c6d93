"""SavedModels with preprocessing, network and fusion inside; they run without this package."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import tensorflow as tf

from panoptic_cli.datasets import records
from panoptic_cli.datasets.preprocessing import MEAN, STDDEV, decode_image, preprocess
from panoptic_cli.errors import DataError, RunError
from panoptic_cli.files import atomic_path, write_json
from panoptic_cli.inference import LoadedModel
from panoptic_cli.models.fusion import fuse

ASSET = "panoptic.json"


class _ServedModel(tf.Module):
    """The function that is exported, and the variables it reads."""

    def __init__(self, model: LoadedModel, input_type: str, batch_size: int | None) -> None:
        super().__init__()
        self._model = model
        # Plain TensorFlow variables, so that the SavedModel holds no Keras objects and needs no Keras to load.
        self.weights = [variable.value for variable in model.network.variables]
        spec = {
            "image_tensor": tf.TensorSpec([batch_size, None, None, 3], tf.uint8, name="image"),
            "image_bytes": tf.TensorSpec([batch_size], tf.string, name="image_bytes"),
            "tf_example": tf.TensorSpec([batch_size], tf.string, name="tf_example"),
        }[input_type]
        self.serve = tf.function(getattr(self, f"_{input_type}"), input_signature=[spec])

    def _image_tensor(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        return self._predict(images, lambda image: image)

    def _image_bytes(self, encoded: tf.Tensor) -> dict[str, tf.Tensor]:
        return self._predict(encoded, decode_image)

    def _tf_example(self, examples: tf.Tensor) -> dict[str, tf.Tensor]:
        def decode(example: tf.Tensor) -> tf.Tensor:
            feature = {records.IMAGE_ENCODED: tf.io.FixedLenFeature([], tf.string)}
            return decode_image(tf.io.parse_single_example(example, feature)[records.IMAGE_ENCODED])

        return self._predict(examples, decode)

    def _predict(self, inputs: tf.Tensor, decode: Any) -> dict[str, tf.Tensor]:
        model, size = self._model, self._model.input_size
        config = model.experiment.task.model.panoptic_segmentation_generator

        def prepare(item: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            return preprocess(decode(item), size)

        signature = (tf.TensorSpec([*size, 3], tf.float32), tf.TensorSpec([4, 2], tf.float32))
        images, info = tf.map_fn(prepare, inputs, fn_output_signature=signature)
        outputs = model.network(images, info, training=False)
        # Pictures of one batch may differ in size: all maps are padded to the largest.
        canvas = tf.cast(tf.reduce_max(info[:, 0], axis=0), tf.int32)

        def fuse_one(item: tuple[dict[str, tf.Tensor], tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
            maps = fuse(*item, config, model.label_space)
            shape = tf.shape(maps.category)
            padding = [[0, canvas[0] - shape[0]], [0, canvas[1] - shape[1]]]
            return tf.pad(maps.category, padding), tf.pad(maps.instance, padding)

        map_spec = tf.TensorSpec([None, None], tf.int32)
        category, instance = tf.map_fn(fuse_one, (outputs, info), fn_output_signature=(map_spec, map_spec))
        scale = tf.tile(info[:, 2:3], [1, 1, 2])
        thing_ids = tf.constant(model.label_space.thing_ids, tf.int32)
        return {
            "detection_boxes": outputs["detection_boxes"] / scale,
            "detection_scores": outputs["detection_scores"],
            "detection_category_ids": tf.gather(thing_ids, outputs["detection_classes"]),
            "detection_masks": outputs["detection_masks"],
            "num_detections": outputs["num_detections"],
            "panoptic_category_map": category,
            "panoptic_instance_map": instance,
            "image_sizes": tf.cast(info[:, 0], tf.int32),
        }


OUTPUTS = {
    "detection_boxes": "float32 [batch, n, 4]: y1, x1, y2, x2 in pixels of the original picture",
    "detection_scores": "float32 [batch, n]: 0..1, descending; 0 behind the last detection",
    "detection_category_ids": "int32 [batch, n]: category ids; 0 behind the last detection",
    "detection_masks": "float32 [batch, n, m, m]: probabilities within the box",
    "num_detections": "int32 [batch]",
    "panoptic_category_map": "int32 [batch, H, W]: category ids, 0 is void; padded to the batch's largest picture",
    "panoptic_instance_map": "int32 [batch, H, W]: 1-based place of the detection, 0 for stuff and void",
    "image_sizes": "int32 [batch, 2]: height and width of each original picture",
}


def check_output(output: Path) -> None:
    """Checks that a SavedModel may be written to a folder.

    Raises:
        DataError: it is there and is neither a SavedModel nor empty.
    """
    if output.is_dir() and ((output / "saved_model.pb").is_file() or not any(output.iterdir())):
        return
    if output.exists():
        raise DataError(f"{output} exists and is no SavedModel.", "Give another --output or remove it first.")


def export_saved_model(
    model: LoadedModel, output: Path, *, input_type: str = "image_tensor", batch_size: int | None = None
) -> dict[str, Any]:
    """Writes a SavedModel with signature `serving_default`, whole or not at all.

    Args:
        model: the network.
        output: folder to write; an existing SavedModel there is replaced, anything else refused.
        input_type: image_tensor (uint8 [batch, H, W, 3]), image_bytes (JPEG or PNG strings) or tf_example.
        batch_size: pictures of a call; None leaves it open.

    Returns:
        What was written: input type, outputs, step, input size. It is also the asset assets/panoptic.json.

    Raises:
        DataError: the output folder holds something else.
        RunError: it cannot be written.
    """
    check_output(output)
    description = {
        "input_type": input_type,
        "batch_size": batch_size,
        "input_size": list(model.input_size),
        "outputs": OUTPUTS,
        "checkpoint": model.source,
        "step": model.step,
        "mean": [255.0 * value for value in MEAN],
        "stddev": [255.0 * value for value in STDDEV],
        "categories": model.table.to_list(),
    }
    with atomic_path(output) as partial:
        served = _ServedModel(model, input_type, batch_size)
        with tempfile.TemporaryDirectory() as folder:
            # As an asset the description is part of the SavedModel and travels with it.
            asset = Path(folder) / ASSET
            write_json(asset, description)
            served.description = tf.saved_model.Asset(str(asset))
            try:
                tf.saved_model.save(served, str(partial), signatures={"serving_default": served.serve})
            except (OSError, tf.errors.OpError) as error:
                reason = " ".join(str(error).split())[:200]
                raise RunError(
                    f"The SavedModel {output} cannot be written: {reason}.", "Check space and permissions."
                ) from error
    return {"saved_model": str(output), **description}
