from __future__ import annotations

import json
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from panoptic_cli import config, storage
from panoptic_cli.categories import CategoryTable
from panoptic_cli.config.schema import EarlyStopping
from panoptic_cli.errors import RunError
from panoptic_cli.runs.run_directory import RunDirectory
from panoptic_cli.training.watch import wait_for_checkpoint, watch

TABLE = CategoryTable.from_list([{"id": 7, "name": "dot", "isthing": 1}], "test")


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    directory = RunDirectory(tmp_path / "run")
    experiment = config.load_experiment("panoptic_fpn_shapes", options=[("trainer.train_steps", 30)])
    directory.start(experiment, TABLE)
    return directory


def save(run: RunDirectory, *steps: int, keep: int = 2) -> None:
    """Writes the files and the state of a training that saved `steps` and kept the last `keep` of them."""
    storage.make_directory(run.checkpoints)
    for step in steps[-keep:]:
        storage.write_text(f"{run.checkpoints}/ckpt-{step}.index", str(step))
    for step in steps[:-keep]:
        storage.remove(f"{run.checkpoints}/ckpt-{step}.index")
    state = f'model_checkpoint_path: "ckpt-{steps[-1]}"\n'
    state += "".join(f'all_model_checkpoint_paths: "ckpt-{step}"\n' for step in steps[-keep:])
    storage.write_text(f"{run.checkpoints}/checkpoint", state)


def result(quality: float) -> dict[str, Any]:
    part = {"pq": quality, "sq": quality, "rq": quality, "n": 1}
    precision = {"AP": quality, "AP50": None, "AP75": 0.0}
    return {
        "panoptic": {"All": part, "Things": part, "Stuff": part},
        "box": precision,
        "mask": precision,
        "semantic": {"mIoU": 0.5},
        "images": 4,
    }


def written(run: RunDirectory) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (storage.read_text(run.evaluations) or "").splitlines()]


def test_each_checkpoint_once_oldest_first_until_the_run_is_finished(run: RunDirectory) -> None:
    save(run, 10, 20)
    seen: list[str] = []

    def evaluate(prefix: str) -> dict[str, Any]:
        seen.append(prefix.rsplit("-", 1)[1])
        if seen == ["10"]:
            save(run, 10, 20, 30, keep=2)  # training goes on: it removes 10 and saves 30
        return result({"10": 0.2, "20": 0.6, "30": 0.4}[seen[-1]])

    lines = watch(run, evaluate, timeout=60, poll=0.01)
    assert seen == ["10", "20", "30"]
    # Step 10 was evaluated, but its checkpoint could no longer be kept as the best, so its figures are not written.
    assert [line["step"] for line in lines] == [20, 30]
    assert [(line["step"], line["PQ"], line["best"]) for line in written(run)] == [(20, 0.6, True), (30, 0.4, False)]
    assert storage.read_text(f"{run.best}/ckpt-20.index") == "20"
    assert watch(run, evaluate, timeout=60, poll=0.01) == []
    assert len(seen) == 3


def test_new_checkpoints_are_waited_for(run: RunDirectory) -> None:
    save(run, 10)

    def train() -> None:
        time.sleep(0.3)
        save(run, 10, 20)
        time.sleep(0.3)
        save(run, 20, 30)

    thread = threading.Thread(target=train)
    thread.start()
    found: list[int] = []
    lines = watch(run, lambda _: result(0.5), timeout=30, poll=0.05, report=lambda step, _: found.append(step))
    thread.join()
    assert found == [line["step"] for line in lines] == [10, 20, 30]


def test_what_training_evaluated_itself_is_skipped(run: RunDirectory) -> None:
    save(run, 20, 30)
    storage.append_text(run.evaluations, json.dumps({"step": 30, "PQ": 0.5, "images": 4}) + "\n")
    assert [line["step"] for line in watch(run, lambda _: result(0.1), timeout=9, poll=0.01)] == [20]


def test_early_stopping_ends_the_watch(run: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    experiment = run.read_config()
    stopping = experiment.trainer.model_copy(update={"early_stopping": EarlyStopping(patience=1)})
    run.start(experiment.model_copy(update={"trainer": stopping}), TABLE)
    save(run, 10, 20)
    assert len(watch(run, lambda _: result(0.1), timeout=60, poll=0.01)) == 2
    assert "is finished: it stops early. PQ has not risen in 1 evaluation" in " ".join(capsys.readouterr().err.split())


def test_a_run_without_new_checkpoints_ends_the_watch(run: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    save(run, 10)
    begun = time.monotonic()
    assert len(watch(run, lambda _: result(0.1), timeout=0.3, poll=0.05)) == 1
    assert 0.3 <= time.monotonic() - begun < 10
    assert "no new checkpoint for 0.3 seconds" in capsys.readouterr().err


def test_a_broken_checkpoint_is_an_error(run: RunDirectory) -> None:
    save(run, 10)

    def evaluate(prefix: str) -> dict[str, Any]:
        raise RunError(f"{prefix} cannot be read.")

    with pytest.raises(RunError, match="ckpt-10 cannot be read"):
        watch(run, evaluate, timeout=1, poll=0.01)


def test_the_first_checkpoint_is_waited_for(run: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RunError, match=r"no checkpoint within 0\.1 seconds.*--watch-timeout"):
        wait_for_checkpoint(run, 0.1, poll=0.02)
    assert capsys.readouterr().err.count("Waiting for the first checkpoint") == 1
    threading.Timer(0.2, save, (run, 10)).start()
    wait_for_checkpoint(run, 20, poll=0.02)


def test_the_command_traces_one_network_for_all_checkpoints(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from panoptic_cli.commands.main import run as panoptic

    from panoptic_cli.evaluation import evaluator

    made = []

    class Counted(evaluator.Predictor):
        def __init__(self, model: Any) -> None:
            made.append(model)
            super().__init__(model)

    monkeypatch.setattr(evaluator, "Predictor", Counted)
    shutil.copytree(tiny_run, tmp_path / "run")
    state = tmp_path / "run" / "checkpoints" / "checkpoint"
    for file in (tmp_path / "run" / "checkpoints").glob("ckpt-3.*"):  # an earlier checkpoint of the same weights
        shutil.copy(file, file.with_name(file.name.replace("ckpt-3", "ckpt-2")))
    state.write_text('all_model_checkpoint_paths: "ckpt-2"\n' + state.read_text())
    assert panoptic(["evaluate", "--watch", "--model-dir", str(tmp_path / "run"), "--json"]) == 0
    lines = json.loads(capsys.readouterr().out)["evaluations"]
    assert [line["step"] for line in lines] == [2, 3]
    assert lines[0]["PQ"] == lines[1]["PQ"]
    assert len(made) == 1
