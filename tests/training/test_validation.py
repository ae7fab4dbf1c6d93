from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from fakes import TABLE, read_losses, tiny_experiment, use_fakes

from panoptic_cli.categories import CategoryTable
from panoptic_cli.config import Experiment
from panoptic_cli.errors import DataError, RunError
from panoptic_cli.runs.evaluations import Evaluations, keep
from panoptic_cli.runs.run_directory import RunDirectory
from panoptic_cli.training import trainer
from panoptic_cli.training.trainer import TrainResult

if TYPE_CHECKING:
    import keras

EMA: dict[str, Any] = {"trainer.optimizer_config.ema.average_decay": 0.9}


Evaluate = Callable[[int], dict[str, Any]]
Run = Callable[..., TrainResult]


class Evaluation:
    """Takes the Validator's place: keeps the weights that it sees, and returns PQ by step."""

    def __init__(self, quality: dict[int, float] | None = None) -> None:
        self.quality = quality or {}
        self.seen: dict[int, list[np.ndarray]] = {}

    def __call__(self, experiment: Experiment, table: CategoryTable, model: keras.Model, summaries: Any) -> Evaluate:
        from panoptic_cli.training.validation import averages_in_place

        def evaluate(step: int) -> dict[str, Any]:
            with averages_in_place(model):
                self.seen[step] = [v.numpy().copy() for v in model.network.trainable_variables]
            quality = self.quality.get(step, 0.1)
            return {"PQ": quality, "box_AP": quality / 2, "mask_AP": None, "images": 3}

        return evaluate


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Trains the tiny network, with something else in the Validator's place."""

    def train(experiment: Experiment, directory: Path, evaluation: Any = None) -> TrainResult:
        from panoptic_cli.training import validation

        use_fakes(monkeypatch)
        if evaluation is not None:
            monkeypatch.setattr(validation, "Validator", evaluation)
        return trainer.train(experiment, directory, TABLE)

    return train


def lines(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "evaluations.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("settings", [{}, EMA], ids=["weights", "averages"])
def test_evaluation_does_not_change_training(run: Run, tmp_path: Path, settings: dict[str, Any]) -> None:
    run(tiny_experiment(**settings), tmp_path / "without")
    evaluation = Evaluation()
    run(tiny_experiment(**settings, trainer__validation_interval=4), tmp_path / "with", evaluation)
    assert read_losses(tmp_path / "with") == read_losses(tmp_path / "without")
    assert sorted(evaluation.seen) == [4, 8, 12]
    assert [line["step"] for line in lines(tmp_path / "with")] == [4, 8, 12]


def test_averages_are_evaluated_and_the_weights_come_back(run: Run, tmp_path: Path) -> None:
    import tensorflow as tf

    evaluation = Evaluation()
    run(tiny_experiment(**EMA, trainer__validation_interval=12), tmp_path, evaluation)
    reader = tf.train.load_checkpoint(str(tmp_path / "checkpoints" / "ckpt-12"))
    names = sorted(n for n in reader.get_variable_to_shape_map() if n.startswith("average/") and "first" in n)
    kernel = next(reader.get_tensor(n) for n in names if "kernel" in n)
    network = next(
        n for n in reader.get_variable_to_shape_map() if n.startswith("network/") and "first" in n and "kernel" in n
    )
    np.testing.assert_array_equal(evaluation.seen[12][0], kernel)
    assert np.abs(reader.get_tensor(network) - kernel).max() > 1e-4


def test_the_best_checkpoint_is_kept_when_its_turn_has_come_to_go(run: Run, tmp_path: Path) -> None:
    quality = {2: 0.1, 4: 0.5, 6: 0.3, 8: 0.2, 10: 0.4, 12: 0.4}
    settings = {"trainer.checkpoint_interval": 2, "trainer.max_to_keep": 2}
    run(tiny_experiment(**settings, trainer__validation_interval=2), tmp_path, Evaluation(quality))
    assert [line["best"] for line in lines(tmp_path)] == [True, True, False, False, False, False]
    assert sorted(p.name for p in (tmp_path / "checkpoints").glob("*.index")) == ["ckpt-10.index", "ckpt-12.index"]
    assert sorted(p.name for p in (tmp_path / "best").glob("*.index")) == ["ckpt-4.index"]
    from panoptic_cli.weights.checkpoints import find_checkpoint

    assert find_checkpoint(tmp_path / "best") == f"{tmp_path}/best/ckpt-4"


def test_evaluations_of_other_pictures_are_not_compared(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    (tmp_path / "ckpt-1.index").write_text("one")
    (tmp_path / "ckpt-2.index").write_text("two")
    evaluations = Evaluations(directory)
    assert evaluations.add({"step": 1, "PQ": 0.9, "images": 5}, f"{tmp_path}/ckpt-1")
    assert evaluations.add({"step": 2, "PQ": 0.2, "images": 50}, f"{tmp_path}/ckpt-2")
    assert not evaluations.add({"step": 3, "PQ": None, "images": 50}, f"{tmp_path}/ckpt-2")
    assert evaluations.steps() == {1, 2, 3}
    assert (tmp_path / "best" / "ckpt-2.index").read_text() == "two"
    assert not (tmp_path / "best" / "ckpt-1.index").exists()


def test_damaged_lines_are_no_evaluations(tmp_path: Path) -> None:
    lines = '{"step": 1, "PQ": 0.5}', '{"stem": 2, "PQ": 0.5}', '{"step": "x"}', "[3]", '{"step": 4'
    (tmp_path / "evaluations.jsonl").write_text("\n".join(lines))
    assert Evaluations(RunDirectory(tmp_path)).steps() == {1}


def test_a_checkpoint_that_is_gone_does_not_replace_the_best(tmp_path: Path) -> None:
    (tmp_path / "ckpt-1.index").write_text("one")
    keep(f"{tmp_path}/ckpt-1", f"{tmp_path}/best")
    with pytest.raises(RunError, match="ckpt-9 no longer exists"):
        keep(f"{tmp_path}/ckpt-9", f"{tmp_path}/best")
    assert (tmp_path / "best" / "ckpt-1.index").exists()


def test_a_checkpoint_that_goes_while_it_is_copied_does_not_replace_the_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from panoptic_cli import storage

    for step in (1, 2):
        for part in ("index", "data-00000-of-00001"):
            (tmp_path / f"ckpt-{step}.{part}").write_text(str(step))
    keep(f"{tmp_path}/ckpt-1", f"{tmp_path}/best")
    copy = storage.copy

    def copy_and_remove(source: str, target: str) -> None:
        copy(source, target)
        for path in tmp_path.glob("ckpt-2.*"):
            path.unlink()

    monkeypatch.setattr(storage, "copy", copy_and_remove)
    with pytest.raises(RunError, match="ckpt-2 no longer exists"):
        keep(f"{tmp_path}/ckpt-2", f"{tmp_path}/best")
    assert '"ckpt-1"' in (tmp_path / "best" / "checkpoint").read_text()
    assert (tmp_path / "best" / "ckpt-1.index").exists()


def test_a_missing_annotation_file_is_found_before_the_first_step(run: Run, tmp_path: Path) -> None:
    missing = str(tmp_path / "nowhere.json")
    with pytest.raises(DataError, match=r"nowhere\.json do not exist"):
        run(tiny_experiment(trainer__validation_interval=4, task__annotation_file=missing), tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_signal_while_tensorflow_traces_stays_what_it_is() -> None:
    import tensorflow as tf

    from panoptic_cli.training.callbacks import Stopped

    def network() -> None:
        raise Stopped(signal.SIGTERM)

    @tf.function(autograph=False)
    def traced() -> None:
        network()

    with pytest.raises(Stopped):  # TensorFlow's own error would look like a mistake of ours
        traced()


def test_a_signal_interrupts_an_evaluation_and_it_is_done_after_the_restart(run: Run, tmp_path: Path) -> None:
    def interrupted(*arguments: Any) -> Evaluate:
        def evaluate(step: int) -> dict[str, Any]:
            os.kill(os.getpid(), signal.SIGTERM)
            for _ in range(1000):
                pass
            pytest.fail("the signal did not leave the evaluation")

        return evaluate

    experiment = tiny_experiment(**EMA, trainer__validation_interval=4)
    result = run(experiment, tmp_path, interrupted)
    assert (result.status, result.exit_code, result.step) == ("preempted", 143, 4)
    assert not (tmp_path / "evaluations.jsonl").exists()
    evaluation = Evaluation()
    assert run(experiment, tmp_path, evaluation).start_step == 4
    assert sorted(evaluation.seen) == [4, 8, 12]
    run(tiny_experiment(**EMA), tmp_path / "whole")
    assert read_losses(tmp_path) == read_losses(tmp_path / "whole")


def test_devices_that_cannot_evaluate_say_so_once(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from panoptic_cli.training import validation

    monkeypatch.setattr(validation, "obstacle", lambda strategy: "these devices cannot")
    run(tiny_experiment(trainer__validation_interval=4), tmp_path, lambda *_: pytest.fail("evaluated"))
    printed = capsys.readouterr().err
    assert printed.count("these devices cannot") == 1
    assert f"panoptic evaluate --watch --model-dir {tmp_path}" in printed
    assert (tmp_path / "checkpoints" / "ckpt-12.index").exists()


def test_a_tpu_is_an_obstacle(monkeypatch: pytest.MonkeyPatch) -> None:
    import tensorflow as tf

    from panoptic_cli.training.validation import obstacle

    fake = type("TPUStrategy", (), {})
    monkeypatch.setattr(tf.distribute, "TPUStrategy", fake)
    assert "TPU" in (obstacle(fake()) or "")
    assert obstacle(tf.distribute.OneDeviceStrategy("/cpu:0")) is None


@pytest.mark.slow
def test_the_panoptic_network_is_evaluated_and_drawn(
    tmp_path: Path, shapes_records: Path, tiny_network: tuple[str, ...]
) -> None:
    import tensorflow as tf

    from panoptic_cli.config import load_experiment
    from panoptic_cli.runs.categories import load_categories

    def train(directory: Path, interval: int | None) -> None:
        experiment = load_experiment(
            "panoptic_fpn_shapes",
            settings=[*tiny_network, "trainer.optimizer_config.ema.average_decay=0.9", "trainer.summary_interval=1"],
            options=[
                ("task.train_data.input_path", f"{shapes_records}/train-*"),
                ("task.validation_data.input_path", f"{shapes_records}/val-*"),
                ("task.train_data.global_batch_size", 2),
                ("task.validation_data.global_batch_size", 1),
                ("trainer.validation_steps", 2),
                ("trainer.train_steps", 2),
                ("trainer.optimizer_config.learning_rate.cosine.decay_steps", 100),
                ("trainer.validation_interval", interval),
            ],
        )
        trainer.train(experiment, directory, load_categories(experiment))

    train(tmp_path / "with", 1)
    train(tmp_path / "without", None)
    assert read_losses(tmp_path / "with") == read_losses(tmp_path / "without")
    found = lines(tmp_path / "with")
    assert [(line["step"], line["images"]) for line in found] == [(1, 2), (2, 2)]
    assert all(0 <= line["PQ"] <= 1 for line in found)
    pictures: dict[tuple[int, str], Any] = {}
    tags = set()
    for path in (tmp_path / "with" / "logs").glob("events*"):
        for record in tf.data.TFRecordDataset(str(path)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            for value in event.summary.value:
                tags.add(value.tag)
                if value.metadata.plugin_data.plugin_name == "images":
                    pictures[event.step, value.tag] = tf.make_ndarray(value.tensor)
    assert {"gradient_norm", "learning_rate", "losses/total_loss", "validation/PQ", "validation/mask_AP"} <= tags
    assert {step for step, _ in pictures} == {1, 2}
    width, height, png = pictures[2, "validation/0"]
    assert tf.io.decode_png(png).shape == (int(height), int(width), 3)
