"""Training with a tiny fake network: steps, checkpoints, resuming, signals and failures."""

from __future__ import annotations

import math
import os
import re
import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import TABLE, nan_from, read_losses, read_metrics, tiny_experiment, training_dataset, use_fakes

from panoptic_cli.categories import CategoryTable
from panoptic_cli.config import Experiment, load_experiment
from panoptic_cli.errors import DataError, RunError, TrainingError, UsageError
from panoptic_cli.runs.categories import load_categories
from panoptic_cli.runs.run_directory import RunDirectory
from panoptic_cli.training import trainer


@pytest.fixture(autouse=True)
def _fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    use_fakes(monkeypatch)


def run(experiment: Experiment, directory: Path) -> trainer.TrainResult:
    return trainer.train(experiment, directory, TABLE)


TAGS = {
    "losses/total_loss": "total_loss",
    "losses/mask_loss": "mask_loss",
    "gradient_norm": "gradient_norm",
    "learning_rate": "learning_rate",
    "images_per_second": "images_per_second",
}


def scalars(logs: Path) -> dict[tuple[int, str], float]:
    """Reads (step, tag) -> value of the TensorBoard scalars."""
    import tensorflow as tf

    found = {}
    for path in logs.glob("events*"):
        for record in tf.data.TFRecordDataset(str(path)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            for value in event.summary.value:
                assert value.metadata.plugin_data.plugin_name == "scalars"
                found[event.step, value.tag] = tf.make_ndarray(value.tensor).item()
    return found


def test_a_whole_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rates = "trainer.optimizer_config.learning_rate.cosine.decay_steps"
    experiment = tiny_experiment(trainer__train_steps=60, trainer__summary_interval=4, **{rates: 600})
    result = run(experiment, tmp_path / "run")
    assert (result.status, result.exit_code, result.start_step, result.step) == ("finished", 0, 0, 60)
    lines = read_metrics(tmp_path / "run")
    assert [line["step"] for line in lines] == list(range(4, 61, 4))
    total = [line["total_loss"] for line in lines]
    assert np.mean(total[-5:]) < 0.8 * np.mean(total[:3])  # batches of 8 with dropout: means, not single steps
    assert lines[-1]["mask_loss"] == pytest.approx(0.5 * lines[-1]["total_loss"], rel=1e-5)  # float32
    assert all(line["images_per_second"] > 0 for line in lines[1:])
    assert result.losses["total_loss"] == lines[-1]["total_loss"]
    assert result.checkpoint == f"{tmp_path}/run/checkpoints/ckpt-60"
    names = sorted(p.name for p in (tmp_path / "run" / "checkpoints").glob("*.index"))
    assert names == ["ckpt-55.index", "ckpt-60.index"]
    assert scalars(tmp_path / "run" / "logs") == {
        (line["step"], tag): pytest.approx(line[key], rel=1e-6)  # float32
        for line in lines
        for tag, key in TAGS.items()
        if line[key] is not None
    }
    assert "loss" in capsys.readouterr().err

    again = run(experiment, tmp_path / "run")
    assert (again.status, again.exit_code, again.step) == ("already_finished", 0, 60)
    assert read_metrics(tmp_path / "run") == lines


def test_the_written_rate_is_that_of_the_update(tmp_path: Path) -> None:
    from panoptic_cli.training.schedules import build_schedule

    experiment = tiny_experiment()
    run(experiment, tmp_path)
    schedule = build_schedule(experiment.trainer.optimizer_config, 12)
    written = [line["learning_rate"] for line in read_metrics(tmp_path)]
    assert written == [float(schedule(step)) for step in range(12)]


@pytest.mark.parametrize(
    ("precision", "decay"), [("float32", None), ("bfloat16", None), ("float16", None), ("float32", 0.9)]
)
def test_resumed_is_bitwise_the_uninterrupted_run(
    tmp_path: Path, precision: str, decay: float | None, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {
        "runtime.mixed_precision_dtype": precision,
        "trainer.optimizer_config.ema.average_decay": decay,
    }
    run(tiny_experiment(**settings), tmp_path / "whole")
    part = run(tiny_experiment(**settings, trainer__train_steps=6), tmp_path / "parts")
    assert part.step == 6
    result = run(tiny_experiment(**settings), tmp_path / "parts")
    assert (result.start_step, result.step) == (6, 12)
    assert "at step 6 of 12" in capsys.readouterr().err
    assert read_losses(tmp_path / "parts") == read_losses(tmp_path / "whole")
    # Every variable as well: weights, momentum, moving averages, loss scale, random states.
    whole, parts = (variables(f"{tmp_path}/{name}/checkpoints/ckpt-12") for name in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    assert any(name.startswith("average/") for name in whole) == (decay is not None)
    assert any("dynamic_scale" in name for name in whole) == (precision == "float16")
    for name, value in whole.items():
        np.testing.assert_array_equal(value, parts[name], err_msg=name)


@pytest.mark.parametrize("frozen", [False, True])
def test_a_frozen_backbone_keeps_its_weights(tmp_path: Path, frozen: bool) -> None:
    settings = {"task.freeze_backbone": frozen, "trainer.optimizer_config.ema.average_decay": 0.9}
    run(tiny_experiment(trainer__train_steps=10, **settings), tmp_path)
    first, last = (variables(f"{tmp_path}/checkpoints/ckpt-{step}") for step in (5, 10))
    changed = {key for key in first if not np.array_equal(first[key], last[key])}
    kernels = {key.split("/")[1]: key in changed for key in first if re.match(r"network/.*kernel", key)}
    assert kernels == {"network.Sfirst.Skernel": not frozen, "network.Slast.Skernel": True}
    kept = [key for key in first if key.startswith(("average/", "optimizer/")) and "first" in key]
    assert bool(kept) != frozen  # neither momentum nor average of what is not trained


def variables(prefix: str) -> dict[str, np.ndarray]:
    """Reads the variables of a checkpoint by name."""
    import tensorflow as tf

    reader = tf.train.load_checkpoint(prefix)
    names = [n for n in reader.get_variable_to_shape_map() if n.split("/")[0] in GROUPS]
    # Keras numbers the seed generators of a process.
    return {re.sub(r"seed_generator_\d+", "seed_generator", name): reader.get_tensor(name) for name in names}


GROUPS = ("network", "optimizer", "average", "state")


def test_steps_after_the_last_checkpoint_are_done_again_and_written_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = tiny_experiment()
    use_fakes(monkeypatch, dataset=nan_from(9))
    with pytest.raises(TrainingError):
        run(experiment, tmp_path)
    assert [step for step, _ in read_losses(tmp_path)] == list(range(1, 9))  # the checkpoint is that of step 5
    use_fakes(monkeypatch)
    run(experiment, tmp_path)
    assert [step for step, _ in read_losses(tmp_path)] == list(range(1, 13))


def test_non_finite_loss_names_the_step_and_every_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_fakes(monkeypatch, dataset=nan_from(8))
    with pytest.raises(TrainingError, match=r"step 8: total_loss nan, .*mask_loss nan") as caught:
        run(tiny_experiment(), tmp_path)
    assert "last good checkpoint is that of step 5" in str(caught.value)
    assert sorted(p.name for p in (tmp_path / "checkpoints").glob("*.index")) == ["ckpt-5.index"]
    assert all(math.isfinite(loss) for _, loss in read_losses(tmp_path))


@pytest.mark.parametrize("per_loop", [5, 50])
def test_loops_of_several_steps_end_exactly_and_do_not_change_the_result(tmp_path: Path, per_loop: int) -> None:
    plain = run(tiny_experiment(), tmp_path / "plain")
    looped = run(tiny_experiment(trainer__steps_per_loop=per_loop), tmp_path / "looped")
    assert looped.step == 12
    # XLA is off and the operations are the same: nothing may differ.
    assert looped.losses == plain.losses
    assert read_losses(tmp_path / "looped")[-1] == read_losses(tmp_path / "plain")[-1]


def test_init_checkpoint_is_read_for_a_new_run_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from panoptic_cli import weights

    (tmp_path / "init.index").write_bytes(b"")
    calls = []

    def initialize(network: Any, checkpoint: str, **_: Any) -> str:
        calls.append(checkpoint)
        network.last.bias.assign([10.0])
        return "Initialised."

    monkeypatch.setattr(weights, "initialize", initialize)
    rate = "trainer.optimizer_config.learning_rate.cosine.initial_learning_rate"
    settings = {"task.init_checkpoint": str(tmp_path / "init"), rate: 0.001}
    run(tiny_experiment(**settings, trainer__train_steps=3), tmp_path / "run")
    assert read_losses(tmp_path / "run")[0][1] > 50  # (10 - y)^2: the loaded weights were trained on
    run(tiny_experiment(**settings), tmp_path / "run")
    assert calls == [str(tmp_path / "init")]


def test_initial_weights_may_be_a_published_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from panoptic_cli import weights

    calls: list[str] = []

    def initialize(network: Any, checkpoint: str, **_: Any) -> str:
        calls.append(checkpoint)
        return "Initialised."

    monkeypatch.setattr(weights, "initialize", initialize)
    monkeypatch.setenv("PANOPTIC_CACHE", str(tmp_path / "cache"))
    copy = tmp_path / "cache" / "resnet50_imagenet"
    copy.mkdir(parents=True)
    for suffix in ("index", "data-00000-of-00001"):
        (copy / f"ckpt-28080.{suffix}").touch()
    run(tiny_experiment(**{"task.init_checkpoint": "resnet50_imagenet"}, trainer__train_steps=1), tmp_path / "run")
    assert calls == [str(copy / "ckpt-28080")]
    assert "init_checkpoint: resnet50_imagenet" in (tmp_path / "run" / "config.yaml").read_text()


def test_init_checkpoint_that_is_missing_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="do not exist") as caught:
        run(tiny_experiment(**{"task.init_checkpoint": str(tmp_path / "no")}), tmp_path / "run")
    assert "--init-checkpoint none" in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_weights_that_do_not_fit_leave_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from panoptic_cli import weights

    def initialize(network: Any, checkpoint: str, **_: Any) -> str:
        raise RunError("It does not fit.", "Give another one.")

    (tmp_path / "init.index").write_bytes(b"")
    monkeypatch.setattr(weights, "initialize", initialize)
    with pytest.raises(RunError, match="does not fit"):
        run(tiny_experiment(**{"task.init_checkpoint": str(tmp_path / "init")}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_start_that_fails_does_not_block_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_fakes(monkeypatch, dataset=nan_from(3))
    with pytest.raises(TrainingError, match="step 3"):
        run(tiny_experiment(), tmp_path)
    use_fakes(monkeypatch)
    assert run(tiny_experiment(trainer__seed=5), tmp_path).status == "finished"
    assert [step for step, _ in read_losses(tmp_path)] == list(range(1, 13))


def test_two_trainings_do_not_share_a_directory(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    with (
        RunDirectory(directory).only_training(),
        pytest.raises(RunError, match=rf"Another panoptic train is running in {directory}\. .*another --model-dir"),
    ):
        run(tiny_experiment(), directory)
    assert not directory.exists()
    assert run(tiny_experiment(), directory).status == "finished"


def test_errors_come_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--gpus 4: (TensorFlow has no GPU|only)"):
        run(tiny_experiment(runtime__num_gpus=4, runtime__distribution_strategy="auto"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_data_that_ends_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_fakes(monkeypatch, dataset=lambda *arguments, **position: training_dataset(*arguments, **position).take(4))
    with pytest.raises(DataError, match="ended at step 4"):
        run(tiny_experiment(), tmp_path)


@pytest.mark.parametrize(("number", "status", "code"), [("SIGTERM", "preempted", 143), ("SIGINT", "interrupted", 130)])
def test_signals_save_and_stop(
    tmp_path: Path,
    number: str,
    status: str,
    code: int,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)

    def dataset(*arguments: Any, start_step: int = 0, **position: Any) -> Any:
        import tensorflow as tf

        def send(step: np.int64) -> np.int64:
            if step == 7:
                os.kill(os.getpid(), getattr(signal, number))
            return np.int64(0)

        clean = training_dataset(*arguments, start_step=start_step, **position)
        steps = tf.data.Dataset.counter(start=start_step).map(
            lambda at: tf.ensure_shape(tf.numpy_function(send, [at], tf.int64), ())
        )
        return tf.data.Dataset.zip(clean, steps).map(lambda pair, _: pair)

    experiment = tiny_experiment(trainer__train_steps=2000, trainer__summary_interval=500)
    use_fakes(monkeypatch, dataset=dataset)
    result = run(experiment, tmp_path)
    assert (result.status, result.exit_code) == (status, code)
    assert 0 < result.step < 2000
    assert result.checkpoint == f"{tmp_path}/checkpoints/ckpt-{result.step}"
    assert f"checkpoint of step {result.step} is kept" in capsys.readouterr().err
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def records_and_categories(
    folder: Path, tiny_network: tuple[str, ...], *settings: str
) -> tuple[Experiment, CategoryTable]:
    experiment = load_experiment(
        "panoptic_fpn_shapes",
        settings=[*tiny_network, "trainer.train_steps=3", *settings],
        options=[
            ("task.train_data.input_path", f"{folder}/train-*"),
            ("task.train_data.global_batch_size", 3),
        ],
    )
    return experiment, load_categories(experiment)


def train_on_pictures(monkeypatch: pytest.MonkeyPatch, loss: Callable[[Any], Any]) -> None:
    """Puts a network in place whose loss is a function of the pictures' mean, and the pipeline's own batches."""
    import keras
    import tensorflow as tf

    from panoptic_cli import models
    from panoptic_cli.models.network import PanopticNetwork

    class Network(PanopticNetwork):
        def __init__(self) -> None:
            super().__init__()
            self.dense = keras.layers.Dense(1, use_bias=False)
            self.dense.build((None, 2))

        def losses(self, batch: Any, seed: Any, step: Any, platform: Any) -> dict[str, Any]:
            return {"total_loss": loss(tf.reduce_mean(batch["images"])) + 0.0 * tf.reduce_sum(self.dense.kernel.value)}

    monkeypatch.undo()
    monkeypatch.setattr(models, "create_network", lambda experiment, table: Network())


def test_non_finite_loss_names_the_pictures(
    tmp_path: Path, shapes_records: Path, tiny_network: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    from panoptic_cli.training.batch_pictures import pictures_of_steps

    experiment, table = records_and_categories(shapes_records, tiny_network)
    train_on_pictures(monkeypatch, lambda mean: mean / 0.0)
    with pytest.raises(TrainingError, match="step 1: total_loss") as caught:
        trainer.train(experiment, tmp_path, table)
    assert f"Pictures of step 1: {', '.join(pictures_of_steps(experiment, 1, 1))}." in caught.value.message
    assert "There is no checkpoint" in str(caught.value)


def test_a_gradient_that_is_not_finite_counts_without_loss_scaling_only(tmp_path: Path) -> None:
    from panoptic_cli.training.callbacks import Progress, StopOnNonFinite

    class Saved:
        saved_step = 4

    progress = Progress(step=4)
    progress.move_on(1, {"gradient_norm": math.inf, "total_loss": 1.0})

    def check(loss_scaling: bool) -> None:
        saved: Any = Saved()
        callback = StopOnNonFinite(
            progress, saved, loss_scaling=loss_scaling, pictures=lambda first, last: f"Pictures {first} to {last}."
        )
        callback.after_step()

    check(loss_scaling=True)
    told = "The gradient is not finite at step 5: total_loss 1, gradient_norm inf. Pictures 5 to 5."
    with pytest.raises(TrainingError, match=re.escape(told)):
        check(loss_scaling=False)


def test_a_record_that_cannot_be_used_is_named(
    tmp_path: Path, shapes_records: Path, tiny_network: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "records"
    shutil.copytree(shapes_records, folder)
    shard = sorted(folder.glob("train-*"))[1]
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 255
    shard.write_bytes(content)
    experiment, table = records_and_categories(folder, tiny_network, "trainer.train_steps=20")
    train_on_pictures(monkeypatch, lambda mean: mean)
    with pytest.raises(DataError, match=rf"{shard}, record \d+ ") as caught:
        trainer.train(experiment, tmp_path / "run", table)
    assert "\n" not in str(caught.value)


def test_training_works_outside_the_main_thread(tmp_path: Path) -> None:
    results: list[trainer.TrainResult] = []
    thread = threading.Thread(target=lambda: results.append(run(tiny_experiment(), tmp_path)))
    thread.start()
    thread.join()
    assert results[0].step == 12
