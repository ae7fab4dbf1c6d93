"""A tiny training model and data set with the interface of the real ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from panoptic_cli.categories import CategoryTable, LabelSpace
from panoptic_cli.config import Experiment, load_experiment

TABLE = CategoryTable.from_list(
    [{"id": 7, "name": "dot", "isthing": 1}, {"id": 3, "name": "ground", "isthing": 0}], "test"
)
BATCH = 8


def tiny_experiment(**options: Any) -> Experiment:
    """panoptic_fpn_shapes with short intervals; `options` are dotted keys with __ for the dots."""
    settings = {
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


def build_model(experiment: Experiment, label_space: LabelSpace, *, noise: bool = True) -> Any:
    """Two dense layers with batch norm and dropout: momentum, moving averages and random state to restore.

    Without `noise` nothing depends on how many replicas share a batch.
    """
    import keras
    import tensorflow as tf

    from panoptic_cli.training.step import sum_over_replicas

    class Training(keras.Model):
        def __init__(self) -> None:
            super().__init__(name="training")
            layers = keras.layers
            inputs = keras.Input((6,))
            x = layers.Dense(5, activation="tanh", name="first")(inputs)
            x = layers.BatchNormalization(name="norm", synchronized=True)(x)
            x = layers.Dropout(0.25 if noise else 0.0, name="drop")(x)
            outputs = layers.Dense(1, name="last", dtype="float32")(x)
            self.network = keras.Model(inputs, outputs, name="network")
            self.noise = keras.random.SeedGenerator(5)
            self.ema = experiment.trainer.optimizer_config.ema.average_decay
            averaged = self.network.trainable_variables if self.ema is not None else []
            self.averages = [
                keras.Variable(
                    "zeros", shape=v.shape, trainable=False, aggregation="only_first_replica", name=f"average_{i}"
                )
                for i, v in enumerate(averaged)
            ]

        def train_step(self, data: Any) -> dict[str, Any]:
            x, y = data
            if noise:
                x = x + 0.01 * keras.random.normal(tf.shape(x), seed=self.noise)
            with tf.GradientTape() as tape:
                error = tf.square(self.network(x, training=True) - y)
                loss = tf.reduce_sum(error) / experiment.task.train_data.global_batch_size
                scaled = self.optimizer.scale_loss(loss)
            weights = self.network.trainable_variables
            gradients = sum_over_replicas(tape.gradient(scaled, [v.value for v in weights]))
            self.optimizer.apply_gradients(zip(gradients, weights, strict=True))
            for average, weight in zip(self.averages, weights, strict=False):
                average.assign(self.ema * average.value + (1 - self.ema) * weight.value)
            loss = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, loss)
            return {"total_loss": loss, "mask_loss": loss * 0.5}

    return Training()


def build_dataset(
    experiment: Experiment,
    label_space: LabelSpace,
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    input_context: Any = None,
) -> Any:
    """Batch k depends on k and the seed alone, so that a resumed run sees the same ones."""
    import tensorflow as tf

    def batch(step: Any) -> Any:
        x = tf.random.stateless_normal((batch_size, 6), tf.stack([tf.cast(seed, tf.int64), step]))
        return x, tf.reduce_sum(x[:, :2], axis=1, keepdims=True)

    batches = tf.data.Dataset.counter(start=start_step).map(batch)
    if input_context is None:
        return batches
    part = batch_size // input_context.num_input_pipelines
    first = part * input_context.input_pipeline_id
    own = batches.map(lambda x, y: (x[first : first + part], y[first : first + part]))
    return own.unbatch().batch(input_context.get_per_replica_batch_size(batch_size), drop_remainder=True)


def nan_from(step: int) -> Any:
    """A data set whose batches are not finite from a step (counted from 1) on."""

    def build(*args: Any, start_step: int = 0, **kwargs: Any) -> Any:
        import tensorflow as tf

        clean = build_dataset(*args, start_step=start_step, **kwargs)
        positions = tf.data.Dataset.counter(start=start_step + 1)
        return tf.data.Dataset.zip(clean, positions).map(
            lambda pair, at: (pair[0], tf.where(at >= step, float("nan"), pair[1]))
        )

    return build


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl."""
    import json

    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
