"""Evaluates an untrained network on one CPU device or two logical ones; a script of test_evaluator_devices.

python devices.py REPLICAS BATCH_SIZE PRECISION RECORDS OUTPUT.json a.b=c ...
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import keras
import tensorflow as tf

from panoptic_cli import models
from panoptic_cli.categories import CategoryTable
from panoptic_cli.config import load_experiment
from panoptic_cli.demo.shapes import CATEGORIES
from panoptic_cli.devices import set_precision
from panoptic_cli.evaluation.evaluator import Evaluator
from panoptic_cli.inference.predictor import LoadedModel

replicas, batch_size, precision, pattern, output, *settings = sys.argv[1:]
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
strategy: tf.distribute.Strategy = tf.distribute.OneDeviceStrategy("/cpu:0")
if replicas == "2":
    strategy = tf.distribute.MirroredStrategy(["/cpu:0", "/cpu:1"])
experiment = load_experiment("panoptic_fpn_shapes", settings=[*settings, f"runtime.mixed_precision_dtype={precision}"])
table = CategoryTable.from_list(CATEGORIES, "shapes")
set_precision(experiment.runtime)
keras.utils.set_random_seed(0)
with strategy.scope():
    network = models.create_network(experiment, table)
model = LoadedModel(experiment, table, network, "untrained", None, strategy=strategy)
found = Path(output).with_suffix("")
result = Evaluator(model, pattern, batch_size=int(batch_size)).evaluate(output_dir=found).to_dict()
del result["images_per_second"]
Path(output).write_text(json.dumps(result))
