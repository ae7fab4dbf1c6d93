"""Running a SavedModel that `panoptic export` wrote, for `panoptic predict --saved-model`."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from panoptic_cli import storage
from panoptic_cli.categories import CategoryTable
from panoptic_cli.errors import DataError, UsageError
from panoptic_cli.export.saved_model import ASSET
from panoptic_cli.inference.predictor import PicturePrediction
from panoptic_cli.records import schema


class ExportedModel:
    """A SavedModel, told by what stands in it alone.

    Args:
        path: its folder, local or in a bucket.
        score_threshold: detections above it become instances; None: as it was exported.

    Attributes:
        table: its categories.
        step: training step of its weights, None where unknown.
        score_threshold: see above.

    Raises:
        DataError: the folder is no SavedModel of panoptic export, or cannot be loaded.
        UsageError: the threshold is lower than the one that the SavedModel was exported with.
    """

    def __init__(self, path: str | Path, score_threshold: float | None = None) -> None:
        path = storage.normalize(path)
        asset = storage.read_text(f"{path}/assets/{ASSET}")
        if asset is None:
            raise DataError(f"{path} is no SavedModel of panoptic export: it has no assets/{ASSET}.", "Export it anew.")
        try:
            description = json.loads(asset)
            self.table = CategoryTable.from_list(description["categories"], f"{path}/assets/{ASSET}")
            self.step: int | None = description["step"]
            self._input_type: str = description["input_type"]
            self._batch_size: int | None = description["batch_size"]
            exported: float = description["fusion"]["score_threshold"]
            self._stuff_area: float = description["fusion"]["stuff_area_threshold"]
            self._loaded = tf.saved_model.load(path)  # kept: it owns the variables
            self._serve = self._loaded.signatures["serving_default"]
        except (OSError, tf.errors.OpError, KeyError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise DataError(f"The SavedModel {path} cannot be loaded: {reason}.", "Export it anew.") from None
        if score_threshold is not None and score_threshold < exported:
            raise UsageError(
                f"--score-threshold {score_threshold}: the SavedModel was exported with {exported} and holds no more.",
                "Export it anew with --set task.model.panoptic_segmentation_generator.score_threshold=...",
            )
        self.score_threshold = exported if score_threshold is None else score_threshold
        (self._argument,) = self._serve.structured_input_signature[1]

    def predict(self, pixels: np.ndarray) -> PicturePrediction:
        """Predicts one picture, uint8 [height, width, 3]."""
        return next(self.predict_batch([pixels]))

    def predict_batch(self, pictures: Sequence[np.ndarray]) -> Iterator[PicturePrediction]:
        """Predicts pictures, each uint8 [height, width, 3], in as few calls as their sizes and the model allow."""
        # A tensor holds pictures of one size only.
        by_size = itertools.groupby(pictures, lambda p: p.shape if self._input_type == "image_tensor" else ())
        for group in (list(group) for _, group in by_size):
            size = self._batch_size or len(group)
            for first in range(0, len(group), size):
                yield from self._call(group[first : first + size])

    def _call(self, pictures: list[np.ndarray]) -> Iterator[PicturePrediction]:
        missing = (self._batch_size or len(pictures)) - len(pictures)
        inputs = [self._input(pixels) for pixels in pictures]
        inputs += inputs[-1:] * missing  # a fixed batch is filled up with the same picture
        outputs = {name: value.numpy() for name, value in self._serve(**{self._argument: tf.stack(inputs)}).items()}
        for place in range(len(pictures)):
            yield self._prediction({name: value[place] for name, value in outputs.items()})

    def _prediction(self, outputs: dict[str, np.ndarray]) -> PicturePrediction:
        height, width = outputs["image_sizes"]
        count = int(outputs["num_detections"])
        semantic, category, instance = (
            outputs[f"{name}_map"][:height, :width].copy()
            for name in ("semantic_category", "panoptic_category", "panoptic_instance")
        )
        # Things are placed in descending score, so those of low scores do not change the others: without them their
        # pixels are the stuff below.
        low = np.append([False], outputs["detection_scores"] <= self.score_threshold)[instance]
        if low.any():
            ids, places, areas = np.unique(semantic, return_inverse=True, return_counts=True)
            stuff = np.where((ids > 0) & (areas > self._stuff_area), ids, 0)[places.reshape(semantic.shape)]
            category[low], instance[low] = stuff[low], 0
        return PicturePrediction(
            category_map=category,
            instance_map=instance,
            boxes=outputs["detection_boxes"][:count],
            scores=outputs["detection_scores"][:count],
            category_ids=outputs["detection_category_ids"][:count].astype(np.int64),
            masks=outputs["detection_masks"][:count],
        )

    def _input(self, pixels: np.ndarray) -> tf.Tensor:
        """The picture itself, or a string that decodes to the same pixels."""
        if self._input_type == "image_tensor":
            return tf.constant(pixels)
        png = tf.io.encode_png(pixels)
        if self._input_type == "image_bytes":
            return png
        return tf.constant(schema.encode_example({schema.IMAGE_ENCODED: png.numpy()}))
