"""Predictions with a SavedModel that `panoptic export` wrote, for `panoptic predict --saved-model`."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from panoptic_cli import storage
from panoptic_cli.categories import CategoryTable
from panoptic_cli.errors import DataError, one_line
from panoptic_cli.export.saved_model import ASSET
from panoptic_cli.export.served_model import SEMANTIC_MAP
from panoptic_cli.records import schema
from panoptic_cli.results.prediction import Detections, Prediction, Segment


class ExportedModel:
    """A SavedModel, which needs only its own folder.

    Args:
        path: its folder, local or in a bucket.
        score_threshold: detections with a higher score become segments, 0..1; None: as it was exported.

    Attributes:
        table: its categories.
        step: training step of its weights, None if unknown.
        score_threshold: see above.
        accurate_jpeg: how JPEG files are decoded for it, see `images.decoding.decode_image`.

    Raises:
        DataError: the folder is not a SavedModel of panoptic export, or cannot be loaded.
    """

    def __init__(self, path: str | Path, score_threshold: float | None = None) -> None:
        path = storage.normalize(path)
        asset = storage.read_text(f"{path}/assets/{ASSET}")
        if asset is None:
            raise DataError(
                f"{path} is not a SavedModel of panoptic export: it has no assets/{ASSET}.", "Export the model again."
            )
        try:
            description = json.loads(asset)
            self.table = CategoryTable.from_list(description["categories"], f"{path}/assets/{ASSET}")
            self.step: int | None = description["step"]
            self._input_type: str = description["input_type"]
            self.accurate_jpeg: bool = description["preprocessing"].get("accurate_jpeg", False)
            self._batch_size: int | None = description["batch_size"]
            self.score_threshold: float = (
                description.get("score_threshold") if score_threshold is None else score_threshold
            )
            self._loaded = tf.saved_model.load(path)  # kept because it owns the variables
            self._serve = self._loaded.signatures.get("above_score")
        except DataError:
            raise
        except Exception as error:  # TensorFlow raises a different class for each kind of damage
            raise DataError(
                f"The SavedModel {path} cannot be loaded: {one_line(error, 200)}.", "Export the model again."
            ) from None
        if self._serve is None:
            raise DataError(
                f"The SavedModel {path} was written by an earlier version of panoptic.", "Export the model again."
            )
        (self._argument,) = self._serve.structured_input_signature[1].keys() - {"score_threshold"}

    def predict(self, pixels: np.ndarray) -> Prediction:
        """Predicts one picture, uint8 [height, width, 3]."""
        return next(self.predict_batch([pixels]))

    def predict_batch(self, pictures: Sequence[np.ndarray]) -> Iterator[Prediction]:
        """Predicts pictures, each uint8 [height, width, 3], in as few calls as their sizes and the model allow."""
        # All pictures in a tensor have the same size.
        by_size = itertools.groupby(pictures, lambda p: p.shape if self._input_type == "image_tensor" else ())
        for group in (list(group) for _, group in by_size):
            size = self._batch_size or len(group)
            for first in range(0, len(group), size):
                yield from self._call(group[first : first + size])

    def _call(self, pictures: list[np.ndarray]) -> Iterator[Prediction]:
        missing = (self._batch_size or len(pictures)) - len(pictures)
        inputs = [self._input(pixels) for pixels in pictures]
        inputs += inputs[-1:] * missing  # fill a fixed batch with copies of the last picture
        threshold = tf.constant(self.score_threshold, tf.float32)
        served = self._serve(**{self._argument: tf.stack(inputs), "score_threshold": threshold})
        outputs = {name: value.numpy() for name, value in served.items()}
        for place in range(len(pictures)):
            yield _prediction({name: value[place] for name, value in outputs.items()})

    def _input(self, pixels: np.ndarray) -> tf.Tensor:
        """Returns the picture itself, or a string that decodes to the same pixels."""
        if self._input_type == "image_tensor":
            return tf.constant(pixels)
        png = tf.io.encode_png(pixels)
        if self._input_type == "image_bytes":
            return png
        return tf.constant(schema.encode_example({schema.IMAGE_ENCODED: png.numpy()}))


def _prediction(outputs: dict[str, np.ndarray]) -> Prediction:
    """Converts the outputs for one picture."""
    height, width = outputs["image_sizes"].tolist()
    segments, detections = int(outputs["num_segments"]), int(outputs["num_detections"])
    category_ids = outputs["segment_category_ids"][:segments].tolist()
    detection_of_segment = outputs["segment_detections"][:segments]
    category_map, instance_map = (outputs[f"panoptic_{name}_map"][:height, :width] for name in ("category", "instance"))
    # A segment is identified by its category and its detection.
    keys = [0, *(c * (detections + 1) + d for c, d in zip(category_ids, detection_of_segment.tolist(), strict=True))]
    segment_map = np.searchsorted(keys, category_map.astype(np.int64) * (detections + 1) + instance_map)
    semantic = outputs.get(SEMANTIC_MAP)
    return Prediction(
        segment_map=segment_map.astype(np.int32),
        segments=[
            Segment(id=place, category_id=category, area=area)
            for place, (category, area) in enumerate(
                zip(category_ids, outputs["segment_areas"][:segments].tolist(), strict=True), start=1
            )
        ],
        detections=Detections(
            boxes=outputs["detection_boxes"][:detections],
            scores=outputs["detection_scores"][:detections],
            category_ids=outputs["detection_category_ids"][:detections].astype(np.int64),
            masks=[
                _without_padding(counts, height * width) for counts in outputs["detection_mask_counts"][:detections]
            ],
        ),
        detection_of_segment=detection_of_segment,
        semantic_map=None if semantic is None else semantic[:height, :width],
    )


def _without_padding(counts: np.ndarray, pixels: int) -> np.ndarray:
    """Removes the padding after the run that completes the picture."""
    return counts[: int(np.searchsorted(np.cumsum(counts), pixels)) + 1]
