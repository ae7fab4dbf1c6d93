"""A trained network that is ready to run, as evaluate, export and predict use it."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

from panoptic_cli import console, devices, models, weights
from panoptic_cli.categories import CategoryTable
from panoptic_cli.config import Experiment
from panoptic_cli.models.network import PanopticNetwork
from panoptic_cli.models.segments import Segments
from panoptic_cli.pipeline.preprocessing import Geometry, Preprocessing, geometry_spec
from panoptic_cli.results.prediction import Detections, Prediction, Segment


@dataclass(frozen=True)
class LoadedModel:
    """A network with its weights.

    Attributes:
        experiment: its configuration.
        table: its categories.
        network: the network.
        source: the checkpoint that the weights came from.
        step: the training step of the weights; None if the checkpoint does not say.
        averaged: whether the weights are moving averages (EMA).
        strategy: the strategy it was built under; None: TensorFlow's default device.
    """

    experiment: Experiment
    table: CategoryTable
    network: PanopticNetwork
    source: str
    step: int | None
    averaged: bool = False
    strategy: tf.distribute.Strategy | None = None

    @property
    def preprocessing(self) -> Preprocessing:
        """The preprocessing of the network's pictures."""
        return self.network.preprocessing

    @property
    def input_size(self) -> tuple[int, int]:
        """(height, width) of the network's input."""
        return self.preprocessing.input_size

    @property
    def platform(self) -> models.Platform:
        """The platform that the network's graphs are traced for: that of its strategy."""
        if self.strategy is not None:
            return "cpu" if devices.on_cpu(self.strategy) else "gpu"
        return "gpu" if tf.config.get_visible_devices("GPU") else "cpu"


def inference_strategy(experiment: Experiment, gpus: int | None = None) -> tf.distribute.Strategy:
    """Chooses the devices for an evaluation or a prediction, whatever devices the model was trained on.

    Args:
        experiment: its `runtime.num_gpus` is an upper limit.
        gpus: number of GPUs; None: as configured in the experiment, or all GPUs.

    Returns:
        MirroredStrategy over several GPUs, or OneDeviceStrategy on a GPU or the CPU.

    Raises:
        DeviceError: fewer GPUs than requested are visible.
    """
    if gpus is None:
        available = len(tf.config.list_physical_devices("GPU"))
        configured = experiment.runtime.num_gpus
        # With none at all, create_strategy says why if the machine has some.
        gpus = min(configured, available) if configured is not None and (available or not configured) else None
    # The TPU or the workers in the configuration are those of the training.
    local = {"tpu": None, "distribution_strategy": "auto", "num_gpus": gpus}
    return devices.create_strategy(experiment.runtime.model_copy(update=local))


def load_model(
    experiment: Experiment,
    table: CategoryTable,
    checkpoint: str | Path,
    strategy: tf.distribute.Strategy | None = None,
) -> LoadedModel:
    """Builds the network and loads its weights.

    Args:
        experiment: the configuration; its precision is set for the whole process.
        table: the categories.
        checkpoint: a run directory, a folder of checkpoints or one checkpoint's prefix.
        strategy: where the network runs, see `inference_strategy`; None leaves the choice to TensorFlow.

    Raises:
        RunError: the checkpoint is missing or does not fit the network.
    """
    if strategy is None and experiment.runtime.num_gpus == 0:
        _hide_gpus()
    on_cpu = not tf.config.get_visible_devices("GPU")
    devices.set_precision(experiment.runtime, on_cpu=on_cpu, half_variables=models.rounds_variables(experiment))
    with strategy.scope() if strategy is not None else contextlib.nullcontext():
        network = models.create_network(experiment, table)
        loaded = weights.load_weights(network, str(checkpoint))
    console.info(str(loaded))
    return LoadedModel(experiment, table, network, loaded.prefix, loaded.step, loaded.averaged, strategy)


def _hide_gpus() -> None:
    with contextlib.suppress(RuntimeError):  # the process has used a GPU already
        tf.config.set_visible_devices([], "GPU")


class Predictor:
    """Runs a loaded network and turns its outputs into predictions.

    Args:
        model: the network. With a strategy of several replicas, each takes a share of a batch.
        score_threshold: detections with a higher score become segments, 0..1; None: as configured.
    """

    def __init__(self, model: LoadedModel, score_threshold: float | None = None) -> None:
        self.model = model
        self.score_threshold = model.network.score_threshold if score_threshold is None else score_threshold
        height, width = model.input_size
        strategy, network = model.strategy, model.network
        self.replicas = int(strategy.num_replicas_in_sync) if strategy is not None else 1
        share = (tf.TensorSpec([None, height, width, 3], tf.float32), geometry_spec(None))
        platform = model.platform
        device = None if strategy is None else strategy.extended.worker_devices[0]

        def run(images: tf.Tensor, geometry: Geometry) -> dict[str, tf.Tensor]:
            outputs: dict[str, tf.Tensor] = network(images, geometry, platform=platform)
            return outputs

        # One graph serves all batch sizes, as in exported models: a smaller last batch is not traced again. AutoGraph
        # would rewrite every function of the network: as long again, for EoMT.
        @tf.function(input_signature=[[share] * self.replicas], autograph=False)
        def forward(shares: Sequence[tuple[tf.Tensor, Geometry]]) -> tuple[dict[str, tf.Tensor], ...]:
            if self.replicas == 1:
                with tf.device(device):
                    return (run(*shares[0]),)
            assert strategy is not None

            def one_share() -> dict[str, tf.Tensor]:
                replica = tf.get_static_value(tf.distribute.get_replica_context().replica_id_in_sync_group)
                return run(*shares[int(replica)])

            outputs: tuple[dict[str, tf.Tensor], ...] = strategy.experimental_local_results(strategy.run(one_share))
            return outputs

        self._forward = forward

        # This runs on the host, because it loops over detections of different sizes.
        @tf.function(reduce_retracing=True, autograph=False)
        def finish(outputs: dict[str, tf.Tensor], geometry: Geometry, threshold: tf.Tensor) -> Segments:
            with tf.device("CPU:0"):
                return network.finish(outputs, geometry, threshold)

        self._finish = finish

    @property
    def table(self) -> CategoryTable:
        """The categories."""
        return self.model.table

    @property
    def preprocessing(self) -> Preprocessing:
        """The preprocessing of the network's pictures."""
        return self.model.preprocessing

    @property
    def accurate_jpeg(self) -> bool:
        """How JPEG files are decoded for the network, see `images.decoding.decode_image`."""
        return self.preprocessing.accurate_jpeg

    def run(self, images: tf.Tensor, geometry: Geometry, share: int | None = None) -> list[dict[str, np.ndarray]]:
        """Runs the network. The replicas get consecutive shares of the batch.

        Args:
            images: float32 [batch, height, width, 3], prepared by `preprocessing`.
            geometry: the geometry of the batch.
            share: pictures per replica, at least batch / replicas, which is the default. With a fixed share, the
                outputs are equal, to the last bit, to those of one replica that takes this many at once.

        Returns:
            The outputs of the network's `call` for each picture, in order.
        """
        count = int(images.shape[0])
        size = share or -(-count // self.replicas)
        starts = [min(place * size, count) for place in range(self.replicas)]
        stops = [min(start + size, count) for start in starts]
        # A replica without pictures gets the first one again, and its outputs are dropped.
        spans = [(a, b) if b > a else (0, 1) for a, b in zip(starts, stops, strict=True)]
        shares = self._forward([(images[a:b], Geometry(*(x[a:b] for x in geometry))) for a, b in spans])
        pictures: list[dict[str, np.ndarray]] = []
        for outputs, start, stop in zip(shares, starts, stops, strict=True):
            host = {name: value.numpy() for name, value in outputs.items()} if stop > start else {}
            pictures.extend({name: value[i] for name, value in host.items()} for i in range(stop - start))
        return pictures

    def finish(self, outputs: Mapping[str, np.ndarray], geometry: Geometry) -> Prediction:
        """Turns the outputs for one picture into its prediction. Several threads may call this at once.

        Args:
            outputs: the outputs of `run` for the picture.
            geometry: the geometry of the picture.
        """
        return to_prediction(self._finish(dict(outputs), geometry, tf.constant(self.score_threshold, tf.float32)))

    def predict(self, pixels: np.ndarray) -> Prediction:
        """Predicts one picture, uint8 [height, width, 3]."""
        return next(self.predict_batch([pixels]))

    def predict_batch(self, pictures: Sequence[np.ndarray]) -> Iterator[Prediction]:
        """Predicts pictures of any sizes, each uint8 [height, width, 3], in one batch; yields the results in order."""
        prepared = [self.preprocessing.prepare(tf.constant(pixels)) for pixels in pictures]
        images = tf.stack([image for image, _ in prepared])
        geometry = Geometry(*(tf.stack(parts) for parts in zip(*(g for _, g in prepared), strict=True)))
        yield from self.predict_prepared(images, geometry)

    def predict_prepared(self, images: tf.Tensor, geometry: Geometry) -> Iterator[Prediction]:
        """Predicts a batch of prepared pictures. The arguments are those of `run`."""
        rows = (Geometry(*row) for row in zip(*(np.asarray(x) for x in geometry), strict=True))
        for outputs, row in zip(self.run(images, geometry), rows, strict=True):
            yield self.finish(outputs, row)


def to_prediction(segments: Segments) -> Prediction:
    """Converts segments to a NumPy prediction."""
    masks, splits = segments.masks.values.numpy(), segments.masks.row_splits.numpy()
    category_ids, areas = segments.category_ids.numpy().tolist(), segments.areas.numpy().tolist()
    return Prediction(
        segment_map=segments.segment_map.numpy(),
        segments=[
            Segment(id=place, category_id=category, area=area)
            for place, (category, area) in enumerate(zip(category_ids, areas, strict=True), start=1)
        ],
        detections=Detections(
            boxes=segments.boxes.numpy(),
            scores=segments.scores.numpy(),
            category_ids=segments.detection_category_ids.numpy().astype(np.int64),
            masks=[masks[a:b] for a, b in itertools.pairwise(splits)],
        ),
        detection_of_segment=segments.detection_of_segment.numpy(),
        semantic_map=None if segments.semantic_map is None else segments.semantic_map.numpy(),
    )
