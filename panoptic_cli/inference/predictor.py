"""A trained network ready to run: what evaluate, export and predict share."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from panoptic_cli import console
from panoptic_cli.categories import CategoryTable, LabelSpace
from panoptic_cli.config import Experiment
from panoptic_cli.devices import create_strategy, set_precision
from panoptic_cli.models.panoptic_fpn.fusion import fuse
from panoptic_cli.models.panoptic_fpn.label_space import label_space_of
from panoptic_cli.models.panoptic_fpn.network import PanopticFPN
from panoptic_cli.pipeline.preprocessing import preprocess


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
        strategy: the strategy it was built under; None where TensorFlow's default device is meant.
    """

    experiment: Experiment
    table: CategoryTable
    network: PanopticFPN
    source: str
    step: int | None
    averaged: bool = False
    strategy: tf.distribute.Strategy | None = None

    @property
    def label_space(self) -> LabelSpace:
        """Classes of the heads."""
        return self.network.label_space

    @property
    def input_size(self) -> tuple[int, int]:
        """(height, width) of the network's input."""
        height, width, _ = self.experiment.task.model.input_size
        return height, width


def inference_strategy(experiment: Experiment, gpus: int | None = None) -> tf.distribute.Strategy:
    """Chooses the devices of an evaluation or a prediction, whatever the run was trained on.

    Args:
        experiment: its `runtime.num_gpus` counts as far as there are as many.
        gpus: how many GPUs are wanted; None: as the experiment says, or all there are.

    Returns:
        MirroredStrategy over several GPUs, or OneDeviceStrategy on a GPU or the CPU.

    Raises:
        DeviceError: there are fewer GPUs than wanted.
    """
    if gpus is None:
        there = len(tf.config.list_physical_devices("GPU"))
        configured = experiment.runtime.num_gpus
        gpus = there if configured is None else min(configured, there)
    if gpus == 0:
        _leave_gpus_alone()
    # Its TPU or its other workers were the training's.
    local = {"tpu": None, "distribution_strategy": "auto", "num_gpus": gpus}
    return create_strategy(experiment.runtime.model_copy(update=local))


def load_model(
    experiment: Experiment,
    table: CategoryTable,
    checkpoint: str | Path,
    strategy: tf.distribute.Strategy | None = None,
) -> LoadedModel:
    """Builds the network and loads its weights.

    Args:
        experiment: configuration; its precision becomes the process's.
        table: categories.
        checkpoint: a run directory, a folder of checkpoints or one checkpoint's prefix.
        strategy: where the network runs, see `inference_strategy`; None leaves it to TensorFlow.

    Raises:
        RunError: the checkpoint is missing or does not fit the network.
    """
    from panoptic_cli import weights

    if strategy is None and experiment.runtime.num_gpus == 0:
        _leave_gpus_alone()
    set_precision(experiment.runtime, on_cpu=not tf.config.get_visible_devices("GPU"))
    with strategy.scope() if strategy is not None else contextlib.nullcontext():
        network = PanopticFPN(experiment.task.model, label_space_of(experiment, table))
        loaded = weights.load(network, str(checkpoint))
    console.info(str(loaded))
    return LoadedModel(experiment, table, network, loaded.prefix, loaded.step, loaded.averaged, strategy)


def _leave_gpus_alone() -> None:
    with contextlib.suppress(RuntimeError):  # the process has used one already
        tf.config.set_visible_devices([], "GPU")


class Predictor:
    """Runs a loaded network and fuses its outputs.

    Args:
        model: the network. Under its strategy every replica takes a share of a batch.
    """

    def __init__(self, model: LoadedModel) -> None:
        self.model = model
        config = model.experiment.task.model
        height, width = model.input_size
        strategy = model.strategy
        self.replicas = int(strategy.num_replicas_in_sync) if strategy is not None else 1
        share = (tf.TensorSpec([None, height, width, 3], tf.float32), tf.TensorSpec([None, 4, 2], tf.float32))

        def network(images: tf.Tensor, info: tf.Tensor) -> dict[str, tf.Tensor]:
            outputs: dict[str, tf.Tensor] = model.network(images, info, training=False)
            return outputs

        # One graph for every batch size, the one that is exported: a last, smaller batch is not traced again.
        @tf.function(input_signature=[[share] * self.replicas])
        def forward(shares: Sequence[tuple[tf.Tensor, tf.Tensor]]) -> tuple[dict[str, tf.Tensor], ...]:
            if strategy is None or self.replicas == 1:
                return (network(*shares[0]),)

            def one_share() -> dict[str, tf.Tensor]:
                replica = tf.get_static_value(tf.distribute.get_replica_context().replica_id_in_sync_group)
                return network(*shares[int(replica)])

            outputs: tuple[dict[str, tf.Tensor], ...] = strategy.experimental_local_results(strategy.run(one_share))
            return outputs

        self._forward = forward

        # On the host: a loop over the detections, each of a size of its own.
        @tf.function(reduce_retracing=True)
        def fuse_one(outputs: dict[str, tf.Tensor], info: tf.Tensor) -> tuple[tf.Tensor, ...]:
            with tf.device("CPU:0"):
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
        for outputs, info in zip(self.run(images, image_info), np.asarray(image_info), strict=True):
            yield self.fuse(outputs, info)

    def run(self, images: tf.Tensor, image_info: tf.Tensor, share: int | None = None) -> list[dict[str, np.ndarray]]:
        """Runs the network; consecutive shares of the batch go to the replicas.

        Args:
            images: float32 [batch, height, width, 3] as `datasets.preprocessing.preprocess` makes them.
            image_info: float32 [batch, 4, 2].
            share: pictures a replica takes, so that outputs are to the last bit those of one replica that takes as
                many at once, whatever the last batch; at least batch / replicas, which is the default.

        Returns:
            For each picture, in order, what `PanopticFPN.call` returns of it.
        """
        count = int(images.shape[0])
        size = share or -(-count // self.replicas)
        starts = [min(place * size, count) for place in range(self.replicas)]
        stops = [min(start + size, count) for start in starts]
        # A replica without pictures gets the first one once more, and its outputs are dropped.
        spans = [(a, b) if b > a else (0, 1) for a, b in zip(starts, stops, strict=True)]
        shares = self._forward([(images[a:b], image_info[a:b]) for a, b in spans])
        pictures: list[dict[str, np.ndarray]] = []
        for outputs, start, stop in zip(shares, starts, stops, strict=True):
            host = {name: value.numpy() for name, value in outputs.items()} if stop > start else {}
            pictures.extend({name: value[i] for name, value in host.items()} for i in range(stop - start))
        return pictures

    def fuse(self, outputs: Mapping[str, np.ndarray], image_info: np.ndarray) -> PicturePrediction:
        """Fuses the outputs of one picture at its own size; several threads may do so at once.

        Args:
            outputs: of `run`.
            image_info: float32 [4, 2].
        """
        category, instance, semantic = (m.numpy() for m in self._fuse(dict(outputs), image_info))
        count = int(outputs["num_detections"])
        return PicturePrediction(
            category,
            instance,
            boxes=outputs["detection_boxes"][:count] / np.tile(image_info[2], 2),
            scores=outputs["detection_scores"][:count],
            category_ids=self.model.label_space.thing_ids[outputs["detection_classes"][:count]],
            masks=outputs["detection_masks"][:count],
            semantic_map=semantic,
        )

    @property
    def table(self) -> CategoryTable:
        """The categories."""
        return self.model.table

    def predict(self, pixels: np.ndarray) -> PicturePrediction:
        """Predicts one picture, uint8 [height, width, 3]."""
        return next(self.predict_batch([pixels]))

    def predict_batch(self, pictures: Sequence[np.ndarray]) -> Iterator[PicturePrediction]:
        """Predicts pictures of any sizes in one batch, each uint8 [height, width, 3]; yields them in order."""
        prepared = [preprocess(tf.constant(pixels), self.model.input_size) for pixels in pictures]
        images, info = (tf.stack(parts) for parts in zip(*prepared, strict=True))
        return self(images, info)
