"""Early stopping on PQ, by the evaluations of the training itself or of another process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import TABLE, tiny_experiment, training_dataset, use_fakes

from panoptic_cli.config.schema import EarlyStopping
from panoptic_cli.runs.plateau import plateau, reason_to_stop
from panoptic_cli.training import trainer

PATIENCE, INTERVAL = "trainer.early_stopping.patience", "trainer.validation_interval"
DECAY = {"trainer.optimizer_config.learning_rate.cosine.decay_steps": 12}


def lines(*qualities: float | None, images: int = 5) -> list[dict[str, Any]]:
    return [{"step": 10 * place, "PQ": q, "images": images} for place, q in enumerate(qualities, start=1)]


@pytest.mark.parametrize(
    ("qualities", "min_delta", "expected"),
    [
        ((), 0.0, (0, None)),
        ((0.1, 0.2, 0.3), 0.0, (0, 30)),
        ((0.3, 0.2, 0.1), 0.0, (2, 10)),
        ((0.3, 0.3), 0.0, (1, 10)),  # the same PQ is no gain
        ((0.0, 0.0), 0.0, (1, 10)),
        ((0.30, 0.31, 0.32), 0.05, (2, 10)),
        ((0.30, 0.33, 0.36), 0.05, (0, 30)),  # small gains add up
        ((0.3, 0.2, 0.4, 0.1), 0.0, (1, 30)),
        ((None, None), 0.0, (2, None)),
        ((None, 0.1, None), 0.0, (1, 20)),
    ],
)
def test_evaluations_without_a_gain(
    qualities: tuple[float | None, ...], min_delta: float, expected: tuple[int, int | None]
) -> None:
    found = plateau(lines(*qualities)[::-1], EarlyStopping(min_delta=min_delta))
    assert (found.evaluations, found.step) == expected


def test_evaluations_of_other_pictures_do_not_count() -> None:
    few = [{"step": 5, "PQ": 0.9, "images": 2}, {"step": 15, "PQ": 0.9, "images": 2}]
    assert plateau([*few, *lines(0.1, 0.2)], EarlyStopping()).evaluations == 0


def test_the_reason() -> None:
    config = EarlyStopping(patience=2, min_delta=0.01)
    assert reason_to_stop(lines(0.3, 0.3), config) is None
    assert reason_to_stop(lines(0.3, 0.3, 0.305), config) == (
        "PQ has not risen by 1.0 in 2 evaluations; it was 30.0 at step 10"
    )
    assert reason_to_stop(lines(0.3, 0.3, 0.3), EarlyStopping()) is None
    assert reason_to_stop(lines(None), EarlyStopping(patience=1)) == "PQ was undefined in 1 evaluation"


@pytest.fixture(autouse=True)
def _fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    from panoptic_cli.training import validation

    quality = {2: 0.1, 4: 0.5, 6: 0.3, 8: 0.4, 10: 0.45, 12: 0.2}

    def validator(*_: Any) -> Any:
        return lambda step: {"PQ": quality[step], "box_AP": None, "mask_AP": None, "images": 3}

    use_fakes(monkeypatch)
    monkeypatch.setattr(validation, "Validator", validator)


def train(folder: Path, **settings: Any) -> trainer.TrainResult:
    return trainer.train(tiny_experiment(**{**DECAY, **settings}), folder, TABLE)


def test_a_training_ends_and_is_finished(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = {INTERVAL: 2, PATIENCE: 2}
    result = train(tmp_path, **settings)
    assert (result.status, result.exit_code, result.step) == ("stopped_early", 0, 8)
    reason = "PQ has not risen in 2 evaluations; it was 50.0 at step 4"
    told = " ".join(capsys.readouterr().err.split())
    assert f"Stopped early at step 8 of 12. {reason}. The best checkpoint is in {tmp_path}/best." in told
    assert result.checkpoint == f"{tmp_path}/checkpoints/ckpt-8"
    assert [p.name for p in (tmp_path / "best").glob("*.index")] == ["ckpt-4.index"]

    again = train(tmp_path, **settings)
    assert (again.status, again.exit_code, again.step) == ("already_finished", 0, 8)
    told = " ".join(capsys.readouterr().err.split())
    assert f"is already finished: it stopped early at step 8 of 12. {reason}." in told

    more = train(tmp_path, **{**settings, PATIENCE: 4})
    assert (more.status, more.start_step, more.step) == ("stopped_early", 8, 12)


def test_a_resumed_run_remembers_its_evaluations(tmp_path: Path) -> None:
    settings = {INTERVAL: 2, PATIENCE: 2}
    assert train(tmp_path, **settings, **{"trainer.train_steps": 6}).status == "finished"
    result = train(tmp_path, **settings)
    assert (result.status, result.start_step, result.step) == ("stopped_early", 6, 8)


def test_an_evaluation_that_was_made_up_for_may_be_the_last(tmp_path: Path) -> None:
    settings = {INTERVAL: 2, PATIENCE: 1}
    train(tmp_path, **settings, **{"trainer.train_steps": 6})
    evaluations = tmp_path / "evaluations.jsonl"
    kept = [line for line in evaluations.read_text().splitlines(keepends=True) if json.loads(line)["step"] < 6]
    evaluations.write_text("".join(kept))
    result = train(tmp_path, **settings)
    assert (result.status, result.start_step, result.step) == ("stopped_early", 6, 6)


def test_the_evaluations_of_another_process_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """They arrive in the middle of the training, and are read at the next checkpoint."""

    def dataset(*arguments: Any, start_step: int = 0, **position: Any) -> Any:
        import tensorflow as tf

        def evaluate(step: np.int64) -> np.int64:
            if step == 9:  # batches are read a few steps ahead
                text = "".join(json.dumps(line) + "\n" for line in lines(0.5, 0.4))
                (tmp_path / "evaluations.jsonl").write_text(text)
            return np.int64(0)

        clean = training_dataset(*arguments, start_step=start_step, **position)
        steps = tf.data.Dataset.counter(start=start_step).map(
            lambda at: tf.ensure_shape(tf.numpy_function(evaluate, [at], tf.int64), ())
        )
        return tf.data.Dataset.zip(clean, steps).map(lambda pair, _: pair)

    use_fakes(monkeypatch, dataset=dataset)
    result = train(tmp_path, **{PATIENCE: 1})
    assert (result.status, result.step) == ("stopped_early", 10)
    assert "panoptic evaluate --watch" in " ".join(capsys.readouterr().err.split())
