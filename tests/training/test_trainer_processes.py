"""Trainings in processes of their own: killed and resumed, and on two replicas."""

from __future__ import annotations

import math
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fakes import read_losses

HELPERS = str(Path(__file__).parents[1] / "helpers")

_SCRIPT = """
import sys
sys.path.insert(0, {folder!r})
from fakes import *
from panoptic_cli.training import trainer
use_fakes()
experiment = tiny_experiment(trainer__train_steps={steps}, trainer__checkpoint_interval=20)
result = trainer.train(experiment, {run!r}, TABLE)
print(result.start_step, result.step)
"""


@pytest.mark.slow
def test_kill_9_then_the_same_command(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    script = _SCRIPT.format(folder=HELPERS, run=str(directory), steps=240)
    process = subprocess.Popen([sys.executable, "-c", script])
    state = directory / "checkpoints" / "checkpoint"
    deadline = time.monotonic() + 120
    while not state.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    finish = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    assert finish.returncode == 0, finish.stderr
    start, end = map(int, finish.stdout.split())
    assert start > 0
    assert start % 20 == 0
    assert end == 240
    assert f"at step {start} of 240" in finish.stderr
    assert [step for step, _ in read_losses(directory)] == list(range(1, 241))
    whole = tmp_path / "whole"
    script = _SCRIPT.format(folder=HELPERS, run=str(whole), steps=240)
    subprocess.run([sys.executable, "-c", script], check=True, timeout=300)
    assert read_losses(directory) == read_losses(whole)


_REPLICAS = """
import sys
import tensorflow as tf
sys.path.insert(0, {folder!r})
cpus = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpus[0], [tf.config.LogicalDeviceConfiguration()] * 2)
from fakes import *
from panoptic_cli.training import trainer
use_fakes()
strategy = tf.distribute.MirroredStrategy(["/cpu:0", "/cpu:1"])
for steps in (6, 12):
    experiment = tiny_experiment(trainer__train_steps=steps, runtime__mixed_precision_dtype={precision!r})
    result = trainer.train(experiment, {run!r}, TABLE, strategy=strategy)
    print(result.start_step, result.step, result.losses["total_loss"])
"""


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_two_replicas_train_and_resume(tmp_path: Path, precision: str) -> None:
    script = _REPLICAS.format(folder=HELPERS, run=str(tmp_path), precision=precision)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    assert [row[:2] for row in rows] == [["0", "6"], ["6", "12"]]
    assert all(math.isfinite(float(row[2])) for row in rows)
