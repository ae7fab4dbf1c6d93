"""Checkpoints of a tiny training: every variable comes back, and what does not fit is reported by name."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from fakes import TABLE, create_network, tiny_experiment

from panoptic_cli.errors import RunError
from panoptic_cli.training.schedules import build_optimizer
from panoptic_cli.training.step import TrainingModel
from panoptic_cli.weights.checkpoint_files import find_checkpoint
from panoptic_cli.weights.checkpoints import Checkpoints, is_own, load_network


def build(directory: Path | str, precision: str = "float32", keep: int = 5) -> tuple[TrainingModel, Checkpoints]:
    experiment = tiny_experiment()
    model = TrainingModel(create_network(experiment, TABLE), experiment, "cpu")
    optimizer = build_optimizer(experiment.trainer.optimizer_config, 12, precision)
    optimizer.build(model.trainable_variables)
    model.compile(optimizer=optimizer)
    return model, Checkpoints(str(directory), model, optimizer, max_to_keep=keep)


def scramble(variables: Iterable[Any], seed: int) -> None:
    """Gives every variable random values."""
    random = np.random.default_rng(seed)
    for variable in variables:
        values = random.integers(1, 100, variable.shape)
        variable.assign(values.astype(variable.dtype))


def values(variables: Iterable[Any]) -> list[np.ndarray]:
    return [np.asarray(v) for v in variables]


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_every_variable_comes_back_in_a_fresh_model(tmp_path: Path, precision: str) -> None:
    model, checkpoints = build(tmp_path, precision)
    everything = [*model.variables, *model.optimizer.variables]
    names = " ".join(v.path for v in everything)
    # What Keras and tf.train.Checkpoint lose most easily: slots, iterations, loss scale, random state.
    assert "momentum" in names
    assert "iteration" in names
    assert "noise" in names  # a seed generator of the network itself; the other one is the dropout layer's
    assert "seed_generator" in names
    assert ("dynamic_scale" in names) == (precision == "float16")
    scramble(everything, 0)
    checkpoints.save(7)

    # Names of unnamed layers and optimizers differ in this second model of the process.
    fresh, theirs = build(tmp_path, precision)
    restored = [*fresh.variables, *fresh.optimizer.variables]
    scramble(restored, 1)
    assert theirs.restore_latest() == 7
    for ours, again in zip(values(everything), values(restored), strict=True):
        np.testing.assert_array_equal(ours, again)


def test_network_alone_from_a_run_a_folder_or_a_prefix(tmp_path: Path) -> None:
    model, checkpoints = build(tmp_path / "run" / "checkpoints")
    scramble(model.variables, 0)
    checkpoints.save(30)
    for source in ("run", "run/checkpoints", "run/checkpoints/ckpt-30", "run/checkpoints/ckpt-30.index"):
        fresh, _ = build(tmp_path / "other")
        assert load_network(fresh.network, tmp_path / source) == (30, False)
        for ours, again in zip(values(model.network.variables), values(fresh.network.variables), strict=True):
            np.testing.assert_array_equal(ours, again)


@pytest.mark.usefixtures("restored_policy")
def test_a_network_in_half_precision_gets_rounded_values(tmp_path: Path) -> None:
    model, checkpoints = build(tmp_path)
    for variable in model.network.variables:
        variable.assign(np.random.default_rng(0).integers(1, 2**20, variable.shape).astype(variable.dtype))
    checkpoints.save(1)
    keras.config.set_dtype_policy("bfloat16")
    half = create_network(tiny_experiment(), TABLE)
    load_network(half, tmp_path)
    assert "bfloat16" in {v.dtype for v in half.variables}
    for ours, again in zip(values(model.network.variables), values(half.variables), strict=True):
        np.testing.assert_array_equal(ours.astype(again.dtype), again)


def test_the_last_ones_are_kept_also_after_a_restart(tmp_path: Path) -> None:
    _, checkpoints = build(tmp_path, keep=2)
    checkpoints.save(1)
    checkpoints.save(2)
    _, again = build(tmp_path, keep=2)
    again.restore_latest()
    again.save(3)
    assert sorted(p.name for p in tmp_path.glob("*.index")) == ["ckpt-2.index", "ckpt-3.index"]
    assert find_checkpoint(tmp_path) == f"{tmp_path}/ckpt-3"


def test_nothing_there_is_step_0(tmp_path: Path) -> None:
    model, checkpoints = build(tmp_path)
    before = values(model.variables)
    assert checkpoints.restore_latest() == 0
    for ours, again in zip(before, values(model.variables), strict=True):
        np.testing.assert_array_equal(ours, again)
    with pytest.raises(RunError, match="no checkpoint"):
        load_network(model.network, tmp_path)


def test_a_mismatch_names_the_variables(tmp_path: Path) -> None:
    _, checkpoints = build(tmp_path)
    checkpoints.save(1)
    other = keras.Sequential([keras.layers.Dense(4, name="first")], name="network")
    other(tf.zeros((1, 6)))
    with pytest.raises(RunError, match=r"first/kernel is \[6, 5\] in the checkpoint and \[6, 4\] here") as caught:
        load_network(other, tmp_path)
    assert "last/bias is only in the checkpoint" in caught.value.message


def test_a_damaged_checkpoint_is_one_error(tmp_path: Path) -> None:
    model, checkpoints = build(tmp_path)
    prefix = checkpoints.save(1)
    with open(prefix + ".data-00000-of-00001", "r+b") as stream:
        stream.truncate(40)
    with pytest.raises(RunError, match="ckpt-1"):
        load_network(model.network, prefix)
    with open(prefix + ".index", "wb") as stream:
        stream.write(b"not an index")
    with pytest.raises(RunError, match="ckpt-1 cannot be read"):
        load_network(model.network, prefix)


def test_a_lost_checkpoint_does_not_start_over(tmp_path: Path) -> None:
    _, checkpoints = build(tmp_path)
    checkpoints.save(4)
    for path in tmp_path.glob("ckpt-4.*"):
        path.unlink()
    _, again = build(tmp_path)
    with pytest.raises(RunError, match="does not name a checkpoint that exists"):
        again.restore_latest()


def test_a_damaged_state_file_does_not_start_over(tmp_path: Path) -> None:
    _, checkpoints = build(tmp_path)
    checkpoints.save(4)
    (tmp_path / "checkpoint").write_bytes(b'model_checkpoint_path: "\x8bckpt-4"\n')
    with pytest.raises(RunError, match=f"{tmp_path}/checkpoint does not name a checkpoint that exists"):
        build(tmp_path)


def test_foreign_checkpoints_are_told_apart(tmp_path: Path) -> None:
    model, checkpoints = build(tmp_path / "x")
    prefix = tf.train.Checkpoint(v=tf.Variable(1.0)).write(str(tmp_path / "foreign"))
    assert is_own(checkpoints.save(1))
    assert not is_own(prefix)
    assert is_own(str(tmp_path / "nothing"))  # so that loading it says what is wrong
    with pytest.raises(RunError, match="not written by panoptic train") as caught:
        load_network(model.network, prefix)
    assert "--init-checkpoint" in str(caught.value)


def test_remote_through_tensorflow() -> None:
    model, checkpoints = build("ram://bucket/run/checkpoints")
    scramble(model.variables, 0)
    checkpoints.save(2)
    fresh, _ = build("ram://bucket/none")
    assert load_network(fresh.network, "ram://bucket/run").step == 2
    np.testing.assert_array_equal(values(fresh.network.variables)[0], values(model.network.variables)[0])


def test_the_layout_describes_the_variables(tmp_path: Path) -> None:
    model, checkpoints = build(tmp_path)
    reader = tf.train.load_checkpoint(checkpoints.save(3))
    layout = json.loads(reader.get_tensor("layout/.ATTRIBUTES/py_state"))
    assert layout["step"] == 3
    shapes = [(entry["name"], tuple(entry["shape"])) for entry in layout["network"]]
    assert shapes == [(v.path, tuple(v.shape)) for v in model.network.variables]
