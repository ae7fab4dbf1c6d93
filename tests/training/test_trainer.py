from __future__ import annotations

import math
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from fakes import BATCH, TABLE, build_dataset, build_model, nan_from, read_metrics, tiny_experiment

from panoptic_cli.errors import DataError, RunError, TrainingError, UsageError
from panoptic_cli.training import trainer


def run(experiment, directory, **changes):
    arguments = {"build_model": build_model, "build_dataset": build_dataset, **changes}
    return trainer.train(experiment, directory, TABLE, **arguments)


TAGS = {
    "losses/total_loss": "total_loss",
    "losses/mask_loss": "mask_loss",
    "learning_rate": "learning_rate",
    "images_per_second": "images_per_second",
}


def scalars(logs):
    """(step, tag) -> value of the TensorBoard events of the scalar plugin."""
    import tensorflow as tf

    found = {}
    for path in logs.glob("events*"):
        for record in tf.data.TFRecordDataset(str(path)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            for value in event.summary.value:
                assert value.metadata.plugin_data.plugin_name == "scalars"
                found[event.step, value.tag] = tf.make_ndarray(value.tensor).item()
    return found


def losses(directory):
    return [(line["step"], line["total_loss"]) for line in read_metrics(directory)]


def test_a_whole_training(tmp_path, capsys):
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


def test_the_written_rate_is_that_of_the_update(tmp_path):
    from panoptic_cli.training.schedules import build_schedule

    experiment = tiny_experiment()
    run(experiment, tmp_path)
    schedule = build_schedule(experiment.trainer.optimizer_config, 12)
    written = [line["learning_rate"] for line in read_metrics(tmp_path)]
    assert written == [float(schedule(step)) for step in range(12)]


@pytest.mark.parametrize(
    ("precision", "decay"), [("float32", None), ("bfloat16", None), ("float16", None), ("float32", 0.9)]
)
def test_resumed_is_bitwise_the_uninterrupted_run(tmp_path, precision, decay, capsys):
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
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    # Every variable as well: weights, momentum, moving averages, loss scale, random states.
    whole, parts = (variables(f"{tmp_path}/{name}/checkpoints/ckpt-12") for name in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    assert any(name.startswith("average/") for name in whole) == (decay is not None)
    assert any("dynamic_scale" in name for name in whole) == (precision == "float16")
    for name, value in whole.items():
        np.testing.assert_array_equal(value, parts[name], err_msg=name)


def variables(prefix):
    """The numbers of a checkpoint by name."""
    import tensorflow as tf

    reader = tf.train.load_checkpoint(prefix)
    names = [n for n in reader.get_variable_to_shape_map() if n.split("/")[0] in GROUPS]
    # Keras numbers the seed generators of a process.
    return {re.sub(r"seed_generator_\d+", "seed_generator", name): reader.get_tensor(name) for name in names}


GROUPS = ("network", "optimizer", "average", "state")


def test_steps_after_the_last_checkpoint_are_done_again_and_written_once(tmp_path):
    experiment = tiny_experiment()
    with pytest.raises(TrainingError):
        run(experiment, tmp_path, build_dataset=nan_from(9))
    assert [step for step, _ in losses(tmp_path)] == list(range(1, 9))  # the checkpoint is that of step 5
    run(experiment, tmp_path)
    assert [step for step, _ in losses(tmp_path)] == list(range(1, 13))


def test_non_finite_loss_names_the_step_and_every_loss(tmp_path):
    with pytest.raises(TrainingError, match=r"step 8: total_loss nan, mask_loss nan") as caught:
        run(tiny_experiment(), tmp_path, build_dataset=nan_from(8))
    assert "step 5" in caught.value.hint
    assert sorted(p.name for p in (tmp_path / "checkpoints").glob("*.index")) == ["ckpt-5.index"]
    assert all(math.isfinite(loss) for _, loss in losses(tmp_path))


@pytest.mark.parametrize("per_loop", [5, 50])
def test_loops_of_several_steps_end_exactly_and_do_not_change_the_result(tmp_path, per_loop):
    plain = run(tiny_experiment(), tmp_path / "plain")
    looped = run(tiny_experiment(trainer__steps_per_loop=per_loop), tmp_path / "looped")
    assert looped.step == 12
    # XLA is off and the operations are the same: nothing may differ.
    assert looped.losses == plain.losses
    assert losses(tmp_path / "looped")[-1] == losses(tmp_path / "plain")[-1]


def test_init_checkpoint_is_read_for_a_new_run_only(tmp_path, monkeypatch):
    import panoptic_cli.weights

    (tmp_path / "init.index").write_bytes(b"")
    calls = []

    def initialize(network, checkpoint):
        calls.append(checkpoint)
        network.get_layer("last").bias.assign([10.0])
        return "Initialised."

    monkeypatch.setattr(panoptic_cli.weights, "initialize", initialize, raising=False)
    rate = "trainer.optimizer_config.learning_rate.cosine.initial_learning_rate"
    settings = {"task.init_checkpoint": str(tmp_path / "init"), rate: 0.001}
    run(tiny_experiment(**settings, trainer__train_steps=3), tmp_path / "run")
    assert losses(tmp_path / "run")[0][1] > 50  # (10 - y)^2: the loaded weights were trained on
    run(tiny_experiment(**settings), tmp_path / "run")
    assert calls == [str(tmp_path / "init")]


def test_init_checkpoint_that_is_missing_leaves_nothing(tmp_path):
    with pytest.raises(RunError, match="do not exist") as caught:
        run(tiny_experiment(**{"task.init_checkpoint": str(tmp_path / "no")}), tmp_path / "run")
    assert "--init-checkpoint none" in caught.value.hint
    assert not (tmp_path / "run").exists()


def test_errors_come_before_anything_is_written(tmp_path):
    with pytest.raises(UsageError, match="visible"):
        run(tiny_experiment(runtime__num_gpus=4, runtime__distribution_strategy="auto"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_data_that_ends_is_an_error(tmp_path):
    with pytest.raises(DataError, match="ended at step 4"):
        run(tiny_experiment(), tmp_path, build_dataset=lambda *a, **k: build_dataset(*a, **k).take(4))


@pytest.mark.parametrize(("number", "status", "code"), [("SIGTERM", "preempted", 143), ("SIGINT", "interrupted", 130)])
def test_signals_save_and_stop(tmp_path, number, status, code, capsys):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)

    def dataset(*args, start_step=0, **kwargs):
        import tensorflow as tf

        def send(position):
            if position == 7:
                os.kill(os.getpid(), getattr(signal, number))
            return np.int64(0)

        clean = build_dataset(*args, start_step=start_step, **kwargs)
        positions = tf.data.Dataset.counter(start=start_step).map(
            lambda at: tf.ensure_shape(tf.numpy_function(send, [at], tf.int64), ())
        )
        return tf.data.Dataset.zip(clean, positions).map(lambda pair, _: pair)

    experiment = tiny_experiment(trainer__train_steps=2000, trainer__summary_interval=500)
    result = run(experiment, tmp_path, build_dataset=dataset)
    assert (result.status, result.exit_code) == (status, code)
    assert 0 < result.step < 2000
    assert result.checkpoint.endswith(f"ckpt-{result.step}")
    assert f"checkpoint of step {result.step} is kept" in capsys.readouterr().err
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def records_and_categories(folder, tiny_network, *settings):
    from panoptic_cli.config import load_experiment
    from panoptic_cli.runs.categories import load_categories

    experiment = load_experiment(
        "panoptic_fpn_shapes",
        settings=[*tiny_network, "trainer.train_steps=3", *settings],
        options=[
            ("task.train_data.input_path", f"{folder}/train-*"),
            ("task.train_data.global_batch_size", 3),
        ],
    )
    return experiment, load_categories(experiment)


def test_the_pictures_of_a_step_are_those_of_its_batch(shapes_records, tiny_network):
    from panoptic_cli.categories import LabelSpace
    from panoptic_cli.pipeline.batches import training_dataset
    from panoptic_cli.training.batch_pictures import describe_pictures, pictures_of_steps

    # Without augmentation a picture can be told by its pixels, whatever step it is in.
    experiment, table = records_and_categories(shapes_records, tiny_network, "task.train_data.parser.aug_rand_hflip=no")
    batches = training_dataset(experiment, LabelSpace.create(table), batch_size=3, seed=0)
    of_picture = {}
    for step, batch in enumerate(batches.take(9), start=1):  # more than two epochs of 12 pictures
        ids = pictures_of_steps(experiment, step, step)
        assert len(ids) == 3
        for name, image in zip(ids, batch["images"].numpy(), strict=True):
            np.testing.assert_array_equal(image, of_picture.setdefault(name, image))
    assert len(of_picture) == 12
    assert pictures_of_steps(experiment, 2, 3) == [
        *pictures_of_steps(experiment, 2, 2),
        *pictures_of_steps(experiment, 3, 3),
    ]
    first = ", ".join(pictures_of_steps(experiment, 1, 1))
    assert describe_pictures(experiment, 1, 1) == f"Pictures of step 1: {first}."
    gone, _ = records_and_categories(shapes_records, tiny_network)
    gone = gone.model_copy(update={"task": gone.task.model_copy(update={"train_data": type(gone.task.train_data)()})})
    assert "cannot be told" in describe_pictures(gone, 1, 1)


def pass_through(monkeypatch, step):
    """Lets the trainer train a fake on the real pipeline."""
    import keras
    import tensorflow as tf

    class Training(keras.Model):
        def __init__(self):
            super().__init__()
            self.network = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])

        def train_step(self, data):
            return {"total_loss": step(tf.reduce_mean(data["images"]))}

    return lambda *_: Training()


def test_non_finite_loss_names_the_pictures(tmp_path, shapes_records, tiny_network, monkeypatch):
    from panoptic_cli.training.batch_pictures import pictures_of_steps

    experiment, table = records_and_categories(shapes_records, tiny_network)
    model = pass_through(monkeypatch, lambda mean: mean / 0.0)
    with pytest.raises(TrainingError, match="step 1: total_loss") as caught:
        trainer.train(experiment, tmp_path, table, build_model=model)
    assert f"Pictures of step 1: {', '.join(pictures_of_steps(experiment, 1, 1))}." in caught.value.message
    assert "There is no checkpoint" in caught.value.hint


def test_a_gradient_that_is_not_finite_counts_without_loss_scaling_only(tmp_path):
    from panoptic_cli.training.callbacks import Progress, StopOnNonFinite

    class Saved:
        saved_step = 4

    progress = Progress(step=4)
    progress.move_on(1, {"gradient_norm": math.inf, "total_loss": 1.0})
    StopOnNonFinite(progress, Saved(), loss_scaling=True).after_step()
    with pytest.raises(TrainingError, match="The gradient is not finite at step 5: total_loss 1, gradient_norm inf"):
        StopOnNonFinite(progress, Saved(), loss_scaling=False).after_step()


def test_a_record_that_cannot_be_used_is_named(tmp_path, shapes_records, tiny_network, monkeypatch):
    folder = tmp_path / "records"
    shutil.copytree(shapes_records, folder)
    shard = sorted(folder.glob("train-*"))[1]
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 255
    shard.write_bytes(content)
    experiment, table = records_and_categories(folder, tiny_network, "trainer.train_steps=20")
    model = pass_through(monkeypatch, lambda mean: mean)
    with pytest.raises(DataError, match=rf"{shard}, record \d+ ") as caught:
        trainer.train(experiment, tmp_path / "run", table, build_model=model)
    assert "\n" not in str(caught.value)


def test_training_works_outside_the_main_thread(tmp_path):
    results = []
    thread = threading.Thread(target=lambda: results.append(run(tiny_experiment(), tmp_path)))
    thread.start()
    thread.join()
    assert results[0].step == 12


_SCRIPT = """
import sys
sys.path.insert(0, {folder!r})
from fakes import *
from panoptic_cli.training import trainer
experiment = tiny_experiment(trainer__train_steps={steps}, trainer__checkpoint_interval=20)
result = trainer.train(experiment, {run!r}, TABLE, build_model=build_model, build_dataset=build_dataset)
print(result.start_step, result.step)
"""


@pytest.mark.slow
def test_kill_9_then_the_same_command(tmp_path):
    folder, directory = str(Path(__file__).parents[1] / "helpers"), tmp_path / "run"
    script = _SCRIPT.format(folder=folder, run=str(directory), steps=240)
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
    assert [step for step, _ in losses(directory)] == list(range(1, 241))
    whole = tmp_path / "whole"
    script = _SCRIPT.format(folder=folder, run=str(whole), steps=240)
    subprocess.run([sys.executable, "-c", script], check=True, timeout=300)
    assert losses(directory) == losses(whole)


_REPLICAS = """
import sys
import tensorflow as tf
sys.path.insert(0, {folder!r})
cpus = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpus[0], [tf.config.LogicalDeviceConfiguration()] * 2)
from fakes import *
from panoptic_cli.training import trainer
strategy = tf.distribute.MirroredStrategy(["/cpu:0", "/cpu:1"])
for steps in (6, 12):
    experiment = tiny_experiment(trainer__train_steps=steps, runtime__mixed_precision_dtype={precision!r})
    result = trainer.train(experiment, {run!r}, TABLE, strategy=strategy,
        build_model=build_model, build_dataset=build_dataset)
    print(result.start_step, result.step, result.losses["total_loss"])
"""


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_two_replicas_train_and_resume(tmp_path, precision):
    script = _REPLICAS.format(folder=str(Path(__file__).parents[1] / "helpers"), run=str(tmp_path), precision=precision)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    assert [row[:2] for row in rows] == [["0", "6"], ["6", "12"]]
    assert all(math.isfinite(float(row[2])) for row in rows)
    assert BATCH % 2 == 0
