"""What a model family offers to the stages behind it; models/panoptic_fpn is one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from panoptic_cli.models.platform import Platform
from panoptic_cli.models.segments import Segments
from panoptic_cli.pipeline.preprocessing import Geometry, Preprocessing


class TensorDescription(NamedTuple):
    """A tensor in words, for those who use an exported model.

    Attributes:
        dtype: TensorFlow's name of it.
        shape: letters stand for sizes that the picture or the network decides.
        meaning: content, unit and range.
    """

    dtype: str
    shape: tuple[str | int, ...]
    meaning: str


class PanopticNetwork(keras.Model):
    """A panoptic network; its variables exist from construction on.

    Attributes:
        preprocessing: how its pictures are prepared.
        max_detections: the most detections that `finish` returns.
        has_semantic_map: whether `finish` returns a semantic map.
    """

    preprocessing: Preprocessing
    max_detections: int
    has_semantic_map: bool = False

    def call(self, images: tf.Tensor, geometry: Geometry, platform: Platform = "cpu") -> dict[str, tf.Tensor]:
        """Runs the network for inference; static shapes up to the batch size.

        Args:
            images: float32 [batch, height, width, 3], prepared by `preprocessing`.
            geometry: of the batch.
            platform: what the graph is for.

        Returns:
            Tensors with a leading batch dimension, for `finish`.
        """
        raise NotImplementedError

    def losses(self, batch: Mapping[str, Any], seed: tf.Tensor, platform: Platform) -> dict[str, tf.Tensor]:
        """Runs the network in training mode.

        Args:
            batch: one batch of the training pipeline.
            seed: int32 [2], of the random numbers of this step; the same on every replica.
            platform: what the graph is for: cpu, gpu or xla.

        Returns:
            Scalars float32: "total_loss", which is weighted, and its parts, which are not.
        """
        raise NotImplementedError

    def finish(
        self, outputs: Mapping[str, tf.Tensor], geometry: Geometry, score_threshold: tf.Tensor | float | None = None
    ) -> Segments:
        """Turns the network's outputs for one picture into segments at the picture's own size.

        Args:
            outputs: of `call`, without the batch dimension.
            geometry: of the picture.
            score_threshold: detections with a greater score become segments, 0..1; None: as configured.
        """
        raise NotImplementedError

    @property
    def score_threshold(self) -> float:
        """The configured threshold of `finish`."""
        raise NotImplementedError

    def describe_finish(self) -> dict[str, Any]:
        """Returns the settings of `finish`, for the description of an exported model."""
        raise NotImplementedError

    def describe_outputs(self) -> dict[str, TensorDescription]:
        """Describes what `call` returns for one picture."""
        raise NotImplementedError

    def describe_classes(self) -> dict[str, list[int]]:
        """Returns the category id of each class that `call` predicts, for whoever uses its outputs directly."""
        raise NotImplementedError

    def freeze_backbone(self) -> None:
        """Excludes the backbone from training."""
        raise NotImplementedError

    def model_garden_variables(self) -> dict[str, dict[str, Any]]:
        """Maps each part of the network to {path in a checkpoint of tensorflow/models: variable}.

        The part "backbone" is there for families that the Model Garden has; others return nothing.
        """
        return {}
