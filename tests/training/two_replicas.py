"""Runs training steps of a preset on one CPU device or on two logical ones; a script of test_distribution.

python two_replicas.py PRESET REPLICAS RECORDS OUTPUT.npz [dotted.key=value ...]
"""

from __future__ import annotations

import sys
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from panoptic_cli import models
from panoptic_cli.categories import CategoryTable
from panoptic_cli.config import load_experiment
from panoptic_cli.demo.shapes import CATEGORIES
from panoptic_cli.pipeline.batches import training_dataset
from panoptic_cli.training.schedules import build_optimizer
from panoptic_cli.training.step import TrainingModel

preset, replicas, records, output, *settings = sys.argv[1:]
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
if replicas == "2":
    strategy: tf.distribute.Strategy = tf.distribute.MirroredStrategy(["/cpu:0", "/cpu:1"])
else:
    strategy = tf.distribute.OneDeviceStrategy("/cpu:0")

experiment = load_experiment(preset, settings=[f"task.train_data.input_path={records}", *settings])
table = CategoryTable.from_list(CATEGORIES, "shapes")
targets = models.training_targets(experiment, table)
keras.utils.set_random_seed(0)
with strategy.scope():
    model = TrainingModel(models.create_network(experiment, table), experiment, "cpu")
    config = experiment.trainer.optimizer_config
    optimizer = build_optimizer(config, 100, experiment.runtime.mixed_precision_dtype)
    optimizer.build(model.trainable_variables)
    model.compile(optimizer=optimizer)
batches = strategy.distribute_datasets_from_function(
    lambda context: training_dataset(experiment, targets, batch_size=4, seed=1, input_context=context)
)
before = [v.numpy().copy() for v in model.network.variables]  # numpy() may be a view


@tf.function(autograph=False)
def step(batch: Any, done: tf.Tensor) -> Any:
    return strategy.run(model.train_step, args=(batch, done))


result: dict[str, Any] = {}
for number, batch in zip((1, 2), batches, strict=False):
    for name, value in step(batch, tf.constant(number - 1)).items():
        values = [float(v) for v in strategy.experimental_local_results(value)]
        assert len(set(values)) == 1, (name, values)  # the same on every replica
        result[f"log{number}/{name}"] = np.array(values[0])
    result |= {f"after{number}/{v.path}": v.numpy().copy() for v in model.network.variables}
result |= {f"before/{v.path}": x for v, x in zip(model.network.variables, before, strict=True)}
for variable, average in zip(model.network.trainable_variables, model.averages, strict=True):
    result[f"average/{variable.path}"] = average.numpy()
np.savez(output, **result)
