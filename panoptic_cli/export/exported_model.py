"""Running a SavedModel that `panoptic export` wrote, for `panoptic predict --saved-model`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tensorflow as tf

from panoptic_cli.categories import CategoryTable
from panoptic_cli.datasets.records import IMAGE_ENCODED, encode_example
from panoptic_cli.errors import DataError
from panoptic_cli.export.saved_model import ASSET
from panoptic_cli.files import read_json
from panoptic_cli.inference import PicturePrediction


class ExportedModel:
    """A SavedModel, told by what stands in it alone.

    Args:
        path: its folder.

    Attributes:
        table: its categories.
        step: training step of its weights, None where unknown.

    Raises:
        DataError: the folder is no SavedModel of panoptic export, or cannot be loaded.
    """

    def __init__(self, path: Path) -> None:
        asset = path / "assets" / ASSET
        if not asset.is_file():
            raise DataError(f"{path} is no SavedModel of panoptic export: it has no assets/{ASSET}.", "Export it anew.")
        description = read_json(asset, "SavedModel's description")
        self.table = CategoryTable.from_list(description["categories"], str(asset))
        self.step: int | None = description["step"]
        self._input_type: str = description["input_type"]
        self._batch_size: int = description["batch_size"] or 1
        try:
            self._loaded = tf.saved_model.load(str(path))  # kept: it owns the variables
            self._serve = self._loaded.signatures["serving_default"]
        except (OSError, tf.errors.OpError, KeyError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise DataError(f"The SavedModel {path} cannot be loaded: {reason}.", "Export it anew.") from None
        (self._argument,) = self._serve.structured_input_signature[1]

    def predict(self, pixels: np.ndarray) -> PicturePrediction:
        """Predicts one picture, uint8 [height, width, 3]."""
        inputs = tf.constant(pixels) if self._input_type == "image_tensor" else self._encode(pixels)
        batch = tf.stack([inputs] * self._batch_size)  # a fixed batch is filled up with the same picture
        outputs = self._serve(**{self._argument: batch})
        count = int(outputs["num_detections"][0])
        return PicturePrediction(
            category_map=outputs["panoptic_category_map"][0].numpy(),
            instance_map=outputs["panoptic_instance_map"][0].numpy(),
            boxes=outputs["detection_boxes"][0, :count].numpy(),
            scores=outputs["detection_scores"][0, :count].numpy(),
            category_ids=outputs["detection_category_ids"][0, :count].numpy().astype(np.int64),
            masks=outputs["detection_masks"][0, :count].numpy(),
        )

    def _encode(self, pixels: np.ndarray) -> tf.Tensor:
        """The picture as a string that decodes to the same pixels."""
        png = tf.io.encode_png(pixels)
        if self._input_type == "image_bytes":
            return png
        return tf.constant(encode_example({IMAGE_ENCODED: png.numpy()}))
