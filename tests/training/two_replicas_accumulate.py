"""Trains the network of test_accumulation in parts on two logical CPUs; a script of it.

python two_replicas_accumulate.py RUN_DIRECTORY
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / "helpers"), str(Path(__file__).parent)]

import fakes  # noqa: E402
import tensorflow as tf  # noqa: E402
import test_accumulation as test  # noqa: E402

from panoptic_cli import models  # noqa: E402

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
fakes.use_fakes(dataset=test.dataset)
models.create_network = test.without_statistics
test.train(Path(sys.argv[1]), test.PARTS, tf.distribute.MirroredStrategy(["/cpu:0", "/cpu:1"]))
