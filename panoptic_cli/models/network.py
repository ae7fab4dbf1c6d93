"""The interface between a model family, such as models/panoptic_fpn, and the later stages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from panoptic_cli.categories import CategoryTable
from panoptic_cli.errors import RunError
from panoptic_cli.models.class_axes import ClassAxis
from panoptic_cli.models.platform import Platform
from panoptic_cli.models.segments import Segments
from panoptic_cli.models.stored import StoredNetwork
from panoptic_cli.pipeline.preprocessing import Geometry, Preprocessing


class TensorDescription(NamedTuple):
    """A description of a tensor for users of an exported model.

    Attributes:
        dtype: its name in TensorFlow.
        shape: strings stand for sizes that depend on the pictures or the network.
        meaning: content, unit and range.
    """

    dtype: str
    shape: tuple[str | int, ...]
    meaning: str


class PanopticNetwork(keras.Model):
    """A panoptic network. The constructor creates its variables.

    Attributes:
        preprocessing: how pictures are prepared for it.
        max_detections: the largest number of detections that `finish` returns.
        has_semantic_map: whether `finish` returns a semantic map.
    """

    preprocessing: Preprocessing
    max_detections: int
    has_semantic_map: bool = False

    def call(self, images: tf.Tensor, geometry: Geometry, platform: Platform = "cpu") -> dict[str, tf.Tensor]:
        """Runs the network for inference. All sizes except the batch size are static.

        Args:
            images: float32 [batch, height, width, 3], prepared by `preprocessing`.
            geometry: the geometry of the batch.
            platform: what the graph is traced for.

        Returns:
            Tensors with a leading batch dimension, for `finish`.
        """
        raise NotImplementedError

    def losses(
        self, batch: Mapping[str, Any], seed: tf.Tensor, step: tf.Tensor, platform: Platform
    ) -> dict[str, tf.Tensor]:
        """Runs the network in training mode.

        Args:
            batch: one batch of the training pipeline.
            seed: int32 [2], the seed of this step's random numbers; the same on every replica.
            step: int32 scalar, the optimizer steps that are done.
            platform: what the graph is traced for: cpu, gpu or xla.

        Returns:
            float32 scalars: "total_loss", which is weighted, and its parts, which are not.
        """
        raise NotImplementedError

    def finish(
        self, outputs: Mapping[str, tf.Tensor], geometry: Geometry, score_threshold: tf.Tensor | float | None = None
    ) -> Segments:
        """Turns the network's outputs for one picture into segments at the picture's own size.

        Args:
            outputs: the outputs of `call`, without the batch dimension.
            geometry: the geometry of the picture.
            score_threshold: detections with a higher score become segments, 0..1; None: as configured.
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
        """Returns the category id of each class that `call` predicts, for users of its raw outputs."""
        raise NotImplementedError

    def freeze_backbone(self) -> None:
        """Excludes the backbone from training."""
        raise NotImplementedError

    def backbone_layers(self) -> list[list[keras.Variable]]:
        """Returns the variables of the backbone by layer, the first layer first. Initial weights must contain them."""
        raise NotImplementedError

    def class_axes(self) -> dict[str, ClassAxis]:
        """Returns {path of the variable: its class axis} for all variables whose shapes depend on the classes."""
        return {}

    def model_garden_variables(self) -> dict[str, dict[str, Any]]:
        """Maps each part of the network to {path in a checkpoint of tensorflow/models: variable}.

        Families that the Model Garden has include a part "backbone"; other families return an empty dictionary.
        """
        return {}

    def model_garden_class_axes(self, table: CategoryTable) -> dict[str, ClassAxis]:
        """Returns the class axes of a checkpoint of tensorflow/models with these categories, by our variables' paths.

        Its variables may have further classes at the end.

        Raises:
            ConfigError: such a checkpoint cannot have these categories.
        """
        return {}

    def hugging_face_variables(self, config: Mapping[str, Any], source: str) -> StoredNetwork:
        """Returns the variables of the network in a folder of Hugging Face's layout.

        Args:
            config: the content of the folder's config.json.
            source: its path, for messages.

        Raises:
            RunError: the folder does not fit the network, or Hugging Face does not have this family.
        """
        raise RunError(f"{source} does not describe a network of the configured type.", "Check task.model.type.")
