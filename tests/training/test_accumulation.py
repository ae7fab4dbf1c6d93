"""Accumulated gradients: several batches make the step of one large batch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from fakes import TABLE, read_metrics, tiny_experiment, training_dataset, use_fakes

from panoptic_cli.config import Experiment
from panoptic_cli.training import trainer

if TYPE_CHECKING:
    import tensorflow as tf

CLIP = "trainer.optimizer_config.optimizer.sgd.global_clipnorm"
LARGE, PARTS = 8, 4


def dataset(experiment: Experiment, targets: Any, *, batch_size: int, start_step: int = 0, **position: Any) -> Any:
    """The batches of `training_dataset` with `LARGE` pictures, cut into batches of `batch_size`."""
    pieces = LARGE // batch_size
    assert start_step % pieces == 0
    whole = training_dataset(
        experiment, targets, batch_size=LARGE, start_step=start_step // pieces, seed=position["seed"]
    )
    cut = whole.unbatch().batch(batch_size, drop_remainder=True)
    context: tf.distribute.InputContext | None = position.get("input_context")
    if context is None or context.num_replicas_in_sync == 1:
        return cut
    return cut.unbatch().batch(context.get_per_replica_batch_size(batch_size), drop_remainder=True)


def without_statistics(experiment: Experiment, table: Any) -> Any:
    """A network whose loss is a mean over the pictures, so that it does not matter how a batch is cut."""
    import keras
    import tensorflow as tf

    from panoptic_cli.models.network import PanopticNetwork

    class Network(PanopticNetwork):
        def __init__(self) -> None:
            super().__init__(name="network")
            self.first = keras.layers.Dense(5, activation="tanh", name="first")
            self.last = keras.layers.Dense(1, name="last", dtype="float32")
            self.first.build((None, 6))
            self.last.build((None, 5))

        def losses(self, batch: Any, seed: Any, step: Any, platform: Any) -> dict[str, tf.Tensor]:
            x, y = batch
            loss = tf.reduce_mean(tf.square(self.last(self.first(x)) - y))
            return {"total_loss": loss, "mask_loss": loss * 0.5}

    return Network()


@pytest.fixture(autouse=True)
def _fakes(monkeypatch: pytest.MonkeyPatch, restored_policy: None) -> None:
    from panoptic_cli import models

    use_fakes(monkeypatch, dataset=dataset)
    monkeypatch.setattr(models, "create_network", without_statistics)


def train(folder: Path, parts: int = 1, strategy: Any = None, **settings: Any) -> list[dict[str, Any]]:
    experiment = tiny_experiment(
        **{
            "trainer.optimizer_config.ema.average_decay": 0.9,
            CLIP: 1.0,
            **settings,
            "task.train_data.global_batch_size": LARGE // parts,
            "trainer.gradient_accumulation_steps": parts,
        }
    )
    result = trainer.train(experiment, folder, TABLE, strategy=strategy)
    assert result.step == experiment.trainer.train_steps
    return read_metrics(folder)


def variables(folder: Path, step: int = 12) -> dict[str, np.ndarray]:
    import tensorflow as tf

    reader = tf.train.load_checkpoint(f"{folder}/checkpoints/ckpt-{step}")
    names = [n for n in reader.get_variable_to_shape_map() if n.startswith(("network/", "optimizer/", "average/"))]
    return {name: reader.get_tensor(name) for name in names}


def updates(saved: dict[str, np.ndarray]) -> int:
    return next(int(value) for name, value in saved.items() if "sgd" in name and "iteration" in name)


def assert_same(ours: list[dict[str, Any]], theirs: list[dict[str, Any]], rtol: float) -> None:
    for name in ("total_loss", "mask_loss", "gradient_norm", "learning_rate", "step"):
        np.testing.assert_allclose([x[name] for x in ours], [x[name] for x in theirs], rtol=rtol, err_msg=name)


# Sums in another order; 12 steps with momentum amplify the last bit (measured: 2e-6 in float32). In 16 bits, layers
# round each picture's activations alike, however the batch is cut; the sums of their gradients differ by 2^-8 or 2^-11.
@pytest.mark.parametrize(("precision", "rtol"), [("float32", 2e-5), ("bfloat16", 3e-2), ("float16", 4e-3)])
def test_parts_are_the_large_batch(tmp_path: Path, precision: str, rtol: float) -> None:
    settings: dict[str, Any] = {"runtime.mixed_precision_dtype": precision}
    whole = train(tmp_path / "whole", **settings)
    parts = train(tmp_path / "parts", PARTS, **settings)
    assert_same(parts, whole, rtol)
    assert [line["step"] for line in parts] == list(range(1, 13))
    assert min(line["gradient_norm"] for line in whole[:4]) > 1.0  # the whole gradient is clipped, not its parts
    theirs = variables(tmp_path / "whole")
    ours = variables(tmp_path / "parts")
    assert ours.keys() == theirs.keys()  # the sums of gradients are in no checkpoint
    for name, value in theirs.items():
        np.testing.assert_allclose(ours[name], value, rtol=rtol, atol=rtol * np.abs(value).max(), err_msg=name)
    assert updates(ours) == 12  # not batches
    rates = [line["images_per_second"] for line in parts[1:]]
    assert all(rate > 0 for rate in rates)


def test_a_loss_scale_that_is_too_large_skips_the_whole_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of the batches overflows: neither it nor the others change the weights, and the scale is halved once."""
    from panoptic_cli.pipeline import batches

    def brighter(*arguments: Any, **position: Any) -> Any:
        import tensorflow as tf

        clean = dataset(*arguments, **position)
        return clean.enumerate().map(lambda at, pair: (pair[0], tf.where(at == 2, 1e4, 1.0) * pair[1]))

    monkeypatch.setattr(batches, "training_dataset", brighter)
    settings = {"runtime.mixed_precision_dtype": "float16", "trainer.checkpoint_interval": 1}
    lines = train(tmp_path / "x", PARTS, trainer__train_steps=2, trainer__max_to_keep=3, **settings)
    assert lines[0]["gradient_norm"] is None  # JSON has no infinity
    assert lines[1]["gradient_norm"] > 0
    first, second = variables(tmp_path / "x", 1), variables(tmp_path / "x", 2)
    scale = next(name for name in first if "dynamic_scale" in name)
    assert (float(first[scale]), float(second[scale])) == (2.0**14, 2.0**14)  # Keras starts with 2^15
    assert (updates(first), updates(second)) == (0, 1)
    changed = [name for name in first if name.startswith("network/") and not np.array_equal(first[name], second[name])]
    assert changed  # the sums of the first step are gone


def test_resumed_is_bitwise_the_uninterrupted_run(tmp_path: Path) -> None:
    train(tmp_path / "whole", PARTS)
    train(tmp_path / "parts", PARTS, trainer__train_steps=6)
    train(tmp_path / "parts", PARTS)
    theirs, ours = variables(tmp_path / "whole"), variables(tmp_path / "parts")
    for name, value in theirs.items():
        np.testing.assert_array_equal(ours[name], value, err_msg=name)


@pytest.mark.parametrize("settings", [{"trainer.steps_per_loop": 5}, {"runtime.enable_xla": True}], ids=["loop", "xla"])
def test_loops_and_xla(tmp_path: Path, settings: dict[str, Any]) -> None:
    whole = train(tmp_path / "whole", **settings)
    assert_same(train(tmp_path / "parts", PARTS, **settings), whole, rtol=2e-5)


@pytest.mark.slow
def test_two_replicas_accumulate_as_one_does(tmp_path: Path) -> None:
    script = Path(__file__).with_name("two_replicas_accumulate.py")
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "two")], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert_same(read_metrics(tmp_path / "two"), train(tmp_path / "one"), rtol=2e-5)


def test_the_pictures_of_a_step_are_those_of_all_its_batches(shapes_records: Path) -> None:
    from panoptic_cli.training.batch_pictures import pictures_of_steps

    def ids(batch: int, parts: int, first: int, last: int) -> list[str]:
        experiment = tiny_experiment(
            **{
                "task.train_data.input_path": f"{shapes_records}/train-*",
                "task.train_data.global_batch_size": batch,
                "trainer.gradient_accumulation_steps": parts,
            }
        )
        return pictures_of_steps(experiment, first, last)

    assert ids(2, 3, 2, 2) == ids(6, 1, 2, 2) == ids(2, 1, 4, 6)
