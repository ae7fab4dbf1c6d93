"""A tiny network and its batches, in place of a real network and the pipeline."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from panoptic_cli.categories import CategoryTable
from panoptic_cli.config import Experiment, load_experiment

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

TABLE = CategoryTable.from_list(
    [{"id": 7, "name": "dot", "isthing": 1}, {"id": 3, "name": "ground", "isthing": 0}], "test"
)
BATCH = 8
RECORDS = Path(__file__).with_name("train-00000-of-00001.tfrecord")  # empty: nothing reads it, but a training wants one

BuildDataset = Callable[..., Any]


def tiny_experiment(**options: Any) -> Experiment:
    """panoptic_fpn_shapes with short intervals; `options` are dotted keys, or have __ for each dot."""
    settings = {
        "task.train_data.input_path": str(RECORDS),
        "task.validation_data.input_path": str(RECORDS),
        "task.train_data.global_batch_size": BATCH,
        "trainer.train_steps": 12,
        "trainer.summary_interval": 1,
        "trainer.checkpoint_interval": 5,
        "trainer.max_to_keep": 2,
        "trainer.optimizer_config.learning_rate.cosine.decay_steps": 12,
        "trainer.optimizer_config.warmup.linear.warmup_steps": 3,
        **{key.replace("__", "."): value for key, value in options.items()},
    }
    return load_experiment("panoptic_fpn_shapes", options=list(settings.items()))


def use_fakes(
    monkeypatch: pytest.MonkeyPatch | None = None, *, noise: bool = True, dataset: BuildDataset | None = None
) -> None:
    """Puts the fakes in place of the network, its targets and the batches.

    Args:
        monkeypatch: undoes it after the test; None: it stays, for scripts.
        noise: see `create_network`.
        dataset: replaces `training_dataset`.
    """
    from panoptic_cli import models
    from panoptic_cli.pipeline import batches

    def network(experiment: Experiment, table: CategoryTable) -> keras.Model:
        return create_network(experiment, table, noise=noise)

    replace = setattr if monkeypatch is None else monkeypatch.setattr
    replace(models, "create_network", network)
    replace(models, "training_targets", lambda experiment, table: None)
    replace(batches, "training_dataset", dataset or training_dataset)


def create_network(experiment: Experiment, table: CategoryTable, *, noise: bool = True) -> keras.Model:
    """Two dense layers with batch norm and dropout: momentum, moving averages and random states to restore.

    Without `noise` nothing depends on how many replicas share a batch.
    """
    import keras
    import tensorflow as tf

    from panoptic_cli.models.network import PanopticNetwork

    class Network(PanopticNetwork):
        def __init__(self) -> None:
            super().__init__(name="network")
            self.first = keras.layers.Dense(5, activation="tanh", name="first")
            self.norm = keras.layers.BatchNormalization(name="norm", synchronized=True)
            self.drop = keras.layers.Dropout(0.25 if noise else 0.0, name="drop")
            self.last = keras.layers.Dense(1, name="last", dtype="float32")
            self.noise = keras.random.SeedGenerator(5, name="noise")

        def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:  # type: ignore[override]
            return self.last(self.drop(self.norm(self.first(x), training=training), training=training))

        def losses(self, batch: Any, seed: Any, step: Any, platform: Any) -> dict[str, tf.Tensor]:
            x, y = batch
            if noise:
                x = x + 0.01 * keras.random.normal(tf.shape(x), seed=self.noise)
            loss = tf.reduce_mean(tf.square(self(x, training=True) - y))
            return {"total_loss": loss, "mask_loss": loss * 0.5}

        def freeze_backbone(self) -> None:
            self.first.trainable = False

        def backbone_layers(self) -> list[list[keras.Variable]]:
            return [list(self.first.variables)]

    network = Network()
    network(tf.zeros((1, 6)))
    return network


def training_dataset(
    experiment: Experiment,
    targets: Any,
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    input_context: tf.distribute.InputContext | None = None,
) -> tf.data.Dataset:
    """Batch k depends on k and the seed alone, so that a resumed run sees the same batches."""
    import tensorflow as tf

    def batch(step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        x = tf.random.stateless_normal((batch_size, 6), tf.stack([tf.cast(seed, tf.int64), step]))
        return x, tf.reduce_sum(x[:, :2], axis=1, keepdims=True)

    batches = tf.data.Dataset.counter(start=start_step).map(batch)
    if input_context is None:
        return batches
    part = batch_size // input_context.num_input_pipelines
    first = part * input_context.input_pipeline_id
    own = batches.map(lambda x, y: (x[first : first + part], y[first : first + part]))
    return own.unbatch().batch(input_context.get_per_replica_batch_size(batch_size), drop_remainder=True)


def nan_from(step: int) -> BuildDataset:
    """`training_dataset` whose batches are not finite from a step (counted from 1) on."""

    def build(*arguments: Any, start_step: int = 0, **position: Any) -> tf.data.Dataset:
        import tensorflow as tf

        clean = training_dataset(*arguments, start_step=start_step, **position)
        steps = tf.data.Dataset.counter(start=start_step + 1)
        return tf.data.Dataset.zip(clean, steps).map(
            lambda pair, at: (pair[0], tf.where(at >= step, float("nan"), pair[1]))
        )

    return build


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """Returns the lines of metrics.jsonl."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def read_losses(run: Path) -> list[tuple[int, float]]:
    """Returns (step, total loss) of the lines of metrics.jsonl."""
    return [(line["step"], line["total_loss"]) for line in read_metrics(run)]
