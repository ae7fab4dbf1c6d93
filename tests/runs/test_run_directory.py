from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from fakes import TABLE, tiny_experiment

from panoptic_cli import config, storage
from panoptic_cli.categories import CategoryTable
from panoptic_cli.config import Experiment
from panoptic_cli.errors import DataError, RunError
from panoptic_cli.runs.run_directory import RunDirectory, load_run


def start(run: RunDirectory, experiment: Experiment) -> None:
    """What a training does before its first step."""
    run.check(experiment, TABLE)
    run.start(experiment, TABLE)


def checkpoint(run: RunDirectory, step: int) -> None:
    """Writes the files by which a checkpoint is found."""
    storage.make_directory(run.checkpoints)
    storage.write_text(f"{run.checkpoints}/ckpt-{step}.index", "x")
    storage.write_text(f"{run.checkpoints}/checkpoint", f'model_checkpoint_path: "ckpt-{step}"\n')


def test_new_run_describes_itself(tmp_path: Path) -> None:
    run, experiment = RunDirectory(tmp_path / "a" / "run"), tiny_experiment()
    assert not run.is_run
    start(run, experiment)
    run.record_devices({"devices": ["/cpu:0"]})
    checkpoint(run, 3)
    assert load_run(run.path) == (experiment, TABLE)
    (session,) = json.loads((tmp_path / "a/run/environment.json").read_text())
    assert session["devices"] == ["/cpu:0"]
    assert {"started", "argv", "python", "platform", "versions"} <= session.keys()
    assert session["versions"]["tensorflow"].startswith("2.")


def test_same_settings_resume_and_are_counted(tmp_path: Path) -> None:
    run, experiment = RunDirectory(tmp_path), tiny_experiment()
    start(run, experiment)
    assert run.check(experiment, TABLE) == []
    start(run, experiment)
    assert len(json.loads((tmp_path / "environment.json").read_text())) == 2


def test_lengths_intervals_and_devices_may_change_and_are_reported(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    start(run, tiny_experiment())
    changed = tiny_experiment(trainer__train_steps=99, trainer__max_to_keep=9, runtime__num_gpus=0)
    found = run.check(changed, TABLE)
    assert {(difference.key, difference.ours) for difference in found} == {
        ("trainer.train_steps", 99),
        ("trainer.max_to_keep", 9),
        ("runtime.num_gpus", 0),
    }
    run.start(changed, TABLE)
    checkpoint(run, 1)
    assert load_run(tmp_path)[0] == changed


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("task.losses.l2_weight_decay", 0.5),
        ("runtime.mixed_precision_dtype", "bfloat16"),
        ("task.train_data.global_batch_size", 2),
        ("trainer.seed", 4),
    ],
)
def test_another_configuration_is_refused_and_nothing_is_changed(tmp_path: Path, key: str, value: Any) -> None:
    run = RunDirectory(tmp_path)
    start(run, tiny_experiment())
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(RunError, match=key) as caught:
        run.check(tiny_experiment(**{key: value}), TABLE)
    assert "--model-dir" in str(caught.value)
    assert "config.yaml" in str(caught.value)
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir()}


def test_a_cosine_over_the_whole_length_fixes_the_length(tmp_path: Path) -> None:
    open_ended = {"trainer.optimizer_config.learning_rate.cosine.decay_steps": None}
    run = RunDirectory(tmp_path)
    start(run, tiny_experiment(**open_ended))
    with pytest.raises(RunError, match=r"trainer\.train_steps"):
        run.check(tiny_experiment(**open_ended, trainer__train_steps=99), TABLE)


def test_other_categories_are_refused(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    start(run, tiny_experiment())
    with pytest.raises(RunError, match="category table"):
        run.check(tiny_experiment(), CategoryTable(TABLE.categories[:1]))


def test_a_directory_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_bytes(b"x")
    with pytest.raises(RunError, match=r"holiday\.jpg") as caught:
        RunDirectory(tmp_path).check(tiny_experiment(), TABLE)
    assert "--model-dir" in str(caught.value)
    assert "empty the directory" in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.jpg"]


def test_a_file_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").write_bytes(b"x")
    with pytest.raises(RunError, match="a file"):
        RunDirectory(tmp_path / "run").check(tiny_experiment(), TABLE)


def test_a_start_that_was_killed_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "categories.json").write_text("[]")
    run = RunDirectory(tmp_path)
    start(run, tiny_experiment())
    checkpoint(run, 1)
    assert load_run(tmp_path)[1] == TABLE


def test_load_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="does not exist"):
        load_run(tmp_path / "none")
    with pytest.raises(RunError, match="not a run directory"):
        load_run(tmp_path)
    run = RunDirectory(tmp_path)
    start(run, tiny_experiment())
    with pytest.raises(RunError, match="no checkpoint"):
        load_run(tmp_path)
    checkpoint(run, 1)
    (tmp_path / "categories.json").write_text('[{"id"')
    with pytest.raises(DataError, match=r"categories\.json"):
        load_run(tmp_path)
    (tmp_path / "config.yaml").write_text("task: {modell: 1}")
    with pytest.raises(RunError, match="modell"):
        load_run(tmp_path)


def test_the_newest_checkpoint_must_be_complete(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    assert run.latest_checkpoint() is None
    checkpoint(run, 5)
    assert run.latest_checkpoint() == f"{tmp_path}/checkpoints/ckpt-5"
    storage.write_text(f"{run.checkpoints}/ckpt-9.index", "half written: the state file does not name it")
    assert run.latest_checkpoint() == f"{tmp_path}/checkpoints/ckpt-5"


def test_metrics_are_cut_after_the_resumed_step(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.truncate_metrics(3)  # nothing there, nothing happens
    lines = [json.dumps({"step": step}) for step in range(1, 7)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + '\n{"step": 7, "total')
    run.truncate_metrics(4)
    assert (tmp_path / "metrics.jsonl").read_text().splitlines() == lines[:4]


def test_remote_directory_through_tensorflow() -> None:
    run = RunDirectory("ram://bucket/runs/one/")
    experiment = tiny_experiment()
    start(run, experiment)
    start(run, experiment)
    storage.append_text(run.metrics, '{"step": 1}\n')
    storage.append_text(run.metrics, '{"step": 2}\n')
    run.truncate_metrics(1)
    assert storage.read_text(run.metrics) == '{"step": 1}\n'
    checkpoint(run, 2)
    assert load_run("ram://bucket/runs/one") == (experiment, TABLE)


def test_bucket_paths_survive_pathlib(tmp_path: Path) -> None:
    assert RunDirectory(Path("gs://bucket/run")).path == "gs://bucket/run"
    assert RunDirectory("runs/a/").path == "runs/a"


def shards(folder: Path, *sizes: int) -> dict[str, str]:
    """Writes shards of these sizes; returns the setting that names them."""
    folder.mkdir(parents=True, exist_ok=True)
    for place, size in enumerate(sizes):
        (folder / f"train-{place:05d}-of-{len(sizes):05d}.tfrecord").write_bytes(b"x" * size)
    return {"task.train_data.input_path": f"{folder}/train-*"}


def test_the_same_records_at_another_place_are_the_same_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunDirectory(tmp_path / "run")
    start(run, tiny_experiment(**shards(tmp_path / "a", 5, 7)))
    assert json.loads((tmp_path / "run" / "records.json").read_text()) == [
        ["train-00000-of-00002.tfrecord", 5],
        ["train-00001-of-00002.tfrecord", 7],
    ]
    monkeypatch.chdir(tmp_path)
    relative = tiny_experiment(**{"task.train_data.input_path": "a/train-*"})
    assert run.check(relative, TABLE) == []  # a run keeps absolute paths
    run.start(relative, TABLE)
    assert run.read_config().task.train_data.input_path == f"{tmp_path}/a/train-*"
    start(run, tiny_experiment(**shards(tmp_path / "mounted" / "b", 5, 7)))
    assert run.read_config() != relative


def test_other_records_are_refused_wherever_they_are(tmp_path: Path) -> None:
    run, experiment = RunDirectory(tmp_path / "run"), tiny_experiment(**shards(tmp_path / "a", 5, 7))
    start(run, experiment)
    with pytest.raises(RunError, match=r"task\.train_data\.input_path"):
        run.check(tiny_experiment(**shards(tmp_path / "b", 5, 8)), TABLE)
    shards(tmp_path / "a", 5, 9)  # written again
    with pytest.raises(RunError, match="the training records"):
        run.check(experiment, TABLE)


def test_a_run_without_a_listing_goes_by_the_path(tmp_path: Path) -> None:
    run, experiment = RunDirectory(tmp_path / "run"), tiny_experiment(**shards(tmp_path / "a", 5))
    start(run, experiment)
    (tmp_path / "run" / "records.json").unlink()
    run.check(experiment, TABLE)
    with pytest.raises(RunError, match=r"task\.train_data\.input_path"):
        run.check(tiny_experiment(**shards(tmp_path / "b", 5)), TABLE)


def test_a_longer_cosine_needs_its_decay_steps(tmp_path: Path) -> None:
    run, decay = RunDirectory(tmp_path), "trainer.optimizer_config.learning_rate.cosine.decay_steps"
    whole: dict[str, Any] = {decay: None}
    start(run, tiny_experiment(**whole, trainer__train_steps=10))
    with pytest.raises(RunError, match=rf"covers all steps; --set {decay}=10 keeps it"):
        run.check(tiny_experiment(**whole, trainer__train_steps=20), TABLE)
    longer = tiny_experiment(**{decay: 10}, trainer__train_steps=20)
    assert [change.key for change in run.check(longer, TABLE)] == [decay, "trainer.train_steps"]


def test_a_longer_training_of_eomt_keeps_its_decay_and_annealing_by_their_steps(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"task.train_data.input_path": "/records/*", "trainer.train_steps": 600}
    length = {"trainer.train_steps": 1200}
    begun = config.load_experiment("eomt_shapes", options=settings.items())
    run = RunDirectory(tmp_path)
    start(run, begun)
    with pytest.raises(RunError, match="the polynomial learning rate and the masked attention cover all") as caught:
        run.check(config.load_experiment("eomt_shapes", options=(settings | length).items()), TABLE)
    offered = re.findall(r"--set (\S+=\S+)", str(caught.value))
    assert len(offered) == 3
    longer = config.load_experiment("eomt_shapes", settings=offered, options=(settings | length).items())
    changed = [change.key for change in run.check(longer, TABLE)]
    assert changed == sorted([*(text.split("=")[0] for text in offered), "trainer.train_steps"])


@pytest.mark.parametrize("steps", [{}, {"trainer.train_steps": 1200}])
def test_settings_of_types_that_are_not_chosen_are_no_conflict(tmp_path: Path, steps: dict[str, Any]) -> None:
    run = RunDirectory(tmp_path)
    stepwise = {"trainer.optimizer_config.learning_rate.type": "stepwise"}
    start(run, tiny_experiment(**stepwise))
    rates = "trainer.optimizer_config.learning_rate"
    other = {f"{rates}.cosine.decay_steps": 7, f"{rates}.polynomial.power": 2.0, "task.model.eomt.num_queries": 3}
    assert [change.key for change in run.check(tiny_experiment(**stepwise, **other, **steps), TABLE)] == list(steps)


def test_complete_checkpoints_are_listed_oldest_first(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    assert run.all_checkpoints() == []
    checkpoint(run, 9)
    storage.write_text(f"{run.checkpoints}/ckpt-10.index", "x")
    names = ["ckpt-10", "ckpt-9", "ckpt-8"]  # the last was removed, the state file not written yet
    state = "".join(f'all_model_checkpoint_paths: "{name}"\n' for name in names)
    storage.write_text(f"{run.checkpoints}/checkpoint", 'model_checkpoint_path: "ckpt-10"\n' + state)
    assert run.all_checkpoints() == [(9, f"{run.checkpoints}/ckpt-9"), (10, f"{run.checkpoints}/ckpt-10")]
