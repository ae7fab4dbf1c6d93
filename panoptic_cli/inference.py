"""A trained network ready to run: what evaluate, export and predict share."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from panoptic_cli import console
from panoptic_cli.categories import CategoryTable, LabelSpace
from panoptic_cli.config import Experiment
from panoptic_cli.datasets.preprocessing import preprocess
from panoptic_cli.models.fusion import fuse
from panoptic_cli.models.panoptic_fpn import PanopticFPN


class PicturePrediction(NamedTuple):
    """Everything predicted for one picture, at the picture's own size.

    Attributes:
        category_map: int32 [H, W], category ids, 0 void.
        instance_map: int32 [H, W], 1-based place of the detection, 0 for stuff and void.
        boxes: float32 [n, 4] (y1, x1, y2, x2) in pixels of the picture.
        scores: float32 [n], descending.
        category_ids: int64 [n].
        masks: float32 [n, m, m], probabilities within the boxes.
        semantic_map: int32 [H, W], classes of the semantic head alone; None where it is not known.
    """

    category_map: np.ndarray
    instance_map: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    category_ids: np.ndarray
    masks: np.ndarray
    semantic_map: np.ndarray | None = None


@dataclass(frozen=True)
class LoadedModel:
    """A network with its weights.

    Attributes:
        experiment: its configuration.
        table: its categories.
        network: the network.
        source: the checkpoint the weights came from.
        step: the training step they are from; None where the checkpoint does not tell.
        averaged: whether they are moving averages (EMA) of the weights of the training.
    """

    experiment: Experiment
    table: CategoryTable
    network: PanopticFPN
    source: str
    step: int | None
    averaged: bool = False

    @property
    def label_space(self) -> LabelSpace:
        """Classes of the heads."""
        return self.network.label_space

    @property
    def input_size(self) -> tuple[int, int]:
        """(height, width) of the network's input."""
        height, width, _ = self.experiment.task.model.input_size
        return height, width


def label_space_of(experiment: Experiment, table: CategoryTable) -> LabelSpace:
    """Builds the label space that a configuration and a category table decide."""
    model = experiment.task.model
    return LabelSpace.create(table, model.stuff_classes_offset, model.num_classes, model.segmentation_model.num_classes)


def load_model(experiment: Experiment, table: CategoryTable, checkpoint: str | Path) -> LoadedModel:
    """Builds the network and loads its weights.

    Args:
        experiment: configuration; its precision becomes the process's.
        table: categories.
        checkpoint: a run directory, a folder of checkpoints or one checkpoint's prefix.

    Raises:
        RunError: the checkpoint is missing or does not fit the network.
    """
    from panoptic_cli import weights
    from panoptic_cli.training import strategy

    if experiment.runtime.num_gpus == 0:
        _leave_gpus_alone()
    strategy.set_precision(experiment.runtime, on_cpu=not tf.config.get_visible_devices("GPU"))
    network = PanopticFPN(experiment.task.model, label_space_of(experiment, table))
    loaded = weights.load(network, str(checkpoint))
    console.info(str(loaded))
    return LoadedModel(experiment, table, network, loaded.prefix, loaded.step, loaded.averaged)


def _leave_gpus_alone() -> None:
    with contextlib.suppress(RuntimeError):  # the process has used one already
        tf.config.set_visible_devices([], "GPU")


class Predictor:
    """Runs a loaded network and fuses its outputs.

    Args:
        model: the network.
    """

    def __init__(self, model: LoadedModel) -> None:
        self.model = model
        config = model.experiment.task.model
        height, width = model.input_size

        # One graph for every batch size, the one that is exported: a last, smaller batch is not traced again.
        @tf.function(
            input_signature=[
                tf.TensorSpec([None, height, width, 3], tf.float32),
                tf.TensorSpec([None, 4, 2], tf.float32),
            ]
        )
        def forward(images: tf.Tensor, info: tf.Tensor) -> dict[str, tf.Tensor]:
            outputs: dict[str, tf.Tensor] = model.network(images, info, training=False)
            return outputs

        self._forward = forward

        @tf.function(reduce_retracing=True)
        def fuse_one(outputs: dict[str, tf.Tensor], info: tf.Tensor) -> tuple[tf.Tensor, ...]:
            return tuple(fuse(outputs, info, config.panoptic_segmentation_generator, model.label_space))

        self._fuse = fuse_one

    def __call__(self, images: tf.Tensor, image_info: tf.Tensor) -> Iterator[PicturePrediction]:
        """Predicts a batch.

        Args:
            images: float32 [batch, height, width, 3] as `datasets.preprocessing.preprocess` makes them.
            image_info: float32 [batch, 4, 2].

        Yields:
            The prediction of each picture, in order.
        """
        outputs = self._forward(images, image_info)
        for place in range(int(images.shape[0])):
            info = image_info[place]
            maps = self._fuse({key: value[place] for key, value in outputs.items()}, info)
            count = int(outputs["num_detections"][place])
            scale = np.tile(info[2].numpy(), 2)
            classes = outputs["detection_classes"][place, :count].numpy()
            category, instance, semantic = (m.numpy() for m in maps)
            yield PicturePrediction(
                category,
                instance,
                boxes=outputs["detection_boxes"][place, :count].numpy() / scale,
                scores=outputs["detection_scores"][place, :count].numpy(),
                category_ids=self.model.label_space.thing_ids[classes],
                masks=outputs["detection_masks"][place, :count].numpy(),
                semantic_map=semantic,
            )

    @property
    def table(self) -> CategoryTable:
        """The categories."""
        return self.model.table

    def predict(self, pixels: np.ndarray) -> PicturePrediction:
        """Predicts one picture, uint8 [height, width, 3]."""
        image, info = preprocess(tf.constant(pixels), self.model.input_size)
        return next(self(image[None], info[None]))
