from __future__ import annotations

import json
import shutil
import threading
import time

import pytest

from panoptic_cli import config, storage
from panoptic_cli.categories import CategoryTable
from panoptic_cli.errors import RunError
from panoptic_cli.runs.run_directory import RunDirectory
from panoptic_cli.training.watch import wait_for_checkpoint, watch

TABLE = CategoryTable.from_list([{"id": 7, "name": "dot", "isthing": 1}], "test")


@pytest.fixture
def run(tmp_path):
    directory = RunDirectory(tmp_path / "run")
    experiment = config.load_experiment("panoptic_fpn_shapes", options=[("trainer.train_steps", 30)])
    directory.create_or_resume(experiment, TABLE)
    return directory


def save(run, *steps, keep=2):
    """Files and state as a training leaves them: all of `steps`, the last `keep` still there."""
    storage.make_directory(run.checkpoints)
    for step in steps[-keep:]:
        storage.write_text(f"{run.checkpoints}/ckpt-{step}.index", str(step))
    for step in steps[:-keep]:
        storage.remove(f"{run.checkpoints}/ckpt-{step}.index")
    state = f'model_checkpoint_path: "ckpt-{steps[-1]}"\n'
    state += "".join(f'all_model_checkpoint_paths: "ckpt-{step}"\n' for step in steps[-keep:])
    storage.write_text(f"{run.checkpoints}/checkpoint", state)


def result(quality):
    part = {"pq": quality, "sq": quality, "rq": quality, "n": 1}
    precision = {"AP": quality, "AP50": None, "AP75": 0.0}
    return {
        "panoptic": {"All": part, "Things": part, "Stuff": part},
        "box": precision,
        "mask": precision,
        "semantic": {"mIoU": 0.5},
        "images": 4,
    }


def written(run):
    return [json.loads(line) for line in (storage.read_text(run.evaluations) or "").splitlines()]


def test_each_checkpoint_once_oldest_first_until_the_run_is_finished(run):
    save(run, 10, 20)
    seen = []

    def evaluate(prefix):
        seen.append(prefix.rsplit("-", 1)[1])
        if seen == ["10"]:
            save(run, 10, 20, 30, keep=2)  # training went on: 10 is removed, 30 is there
        return result({"10": 0.2, "20": 0.6, "30": 0.4}[seen[-1]])

    lines = watch(run, evaluate, timeout=60, poll=0.01)
    assert seen == ["10", "20", "30"]
    # The weights of step 10 were read, but could not be kept as the best any more: that is told, not written.
    assert [line["step"] for line in lines] == [20, 30]
    assert [(line["step"], line["PQ"], line["best"]) for line in written(run)] == [(20, 0.6, True), (30, 0.4, False)]
    assert storage.read_text(f"{run.best}/ckpt-20.index") == "20"
    assert watch(run, evaluate, timeout=60, poll=0.01) == []
    assert len(seen) == 3


def test_new_checkpoints_are_waited_for(run):
    save(run, 10)

    def train():
        time.sleep(0.3)
        save(run, 10, 20)
        time.sleep(0.3)
        save(run, 20, 30)

    thread = threading.Thread(target=train)
    thread.start()
    found = []
    lines = watch(run, lambda _: result(0.5), timeout=30, poll=0.05, found=lambda step, _: found.append(step))
    thread.join()
    assert found == [line["step"] for line in lines] == [10, 20, 30]


def test_what_training_evaluated_itself_is_left_out(run):
    save(run, 20, 30)
    storage.append_text(run.evaluations, json.dumps({"step": 30, "PQ": 0.5, "images": 4}) + "\n")
    assert [line["step"] for line in watch(run, lambda _: result(0.1), timeout=9, poll=0.01)] == [20]


def test_a_run_that_has_died_ends_the_watch(run, capsys):
    save(run, 10)
    begun = time.monotonic()
    assert len(watch(run, lambda _: result(0.1), timeout=0.3, poll=0.05)) == 1
    assert 0.3 <= time.monotonic() - begun < 10
    assert "no new checkpoint for 0.3 seconds" in capsys.readouterr().err


def test_a_broken_checkpoint_is_an_error(run):
    save(run, 10)

    def evaluate(prefix):
        raise RunError(f"{prefix} cannot be read.")

    with pytest.raises(RunError, match="ckpt-10 cannot be read"):
        watch(run, evaluate, timeout=1, poll=0.01)


def test_the_first_checkpoint_is_waited_for(run):
    with pytest.raises(RunError, match=r"no checkpoint in 0\.1 seconds") as caught:
        wait_for_checkpoint(run, 0.1, poll=0.02)
    assert "--watch-timeout" in caught.value.hint
    threading.Timer(0.2, save, (run, 10)).start()
    wait_for_checkpoint(run, 20, poll=0.02)


def test_the_command_uses_one_network_for_all_checkpoints(tiny_run, tmp_path, monkeypatch, capsys):
    from panoptic_cli.commands.main import run as panoptic

    from panoptic_cli.inference import predictor

    made = []

    class Counted(predictor.Predictor):
        def __init__(self, model):
            made.append(model)
            super().__init__(model)

    monkeypatch.setattr(predictor, "Predictor", Counted)
    monkeypatch.setattr("panoptic_cli.evaluation.evaluator.Predictor", Counted)
    shutil.copytree(tiny_run, tmp_path / "run")
    assert panoptic(["evaluate", "--watch", "--model-dir", str(tmp_path / "run"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [line["step"] for line in found["evaluations"]] == [3]
    assert len(made) == 1
