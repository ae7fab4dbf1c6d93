"""What a training reads is checked before anything starts: one error for each mistake."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fakes import TABLE, tiny_experiment

from panoptic_cli.categories import CategoryTable
from panoptic_cli.errors import DataError, PanopticError, RunError, UsageError
from panoptic_cli.runs.run_directory import RunDirectory
from panoptic_cli.training import inputs
from panoptic_cli.weights.sources import find_source


@pytest.fixture
def records(tmp_path: Path) -> Path:
    """A folder with two empty training shards and the categories."""
    folder = tmp_path / "records"
    folder.mkdir()
    for place in (0, 1):
        (folder / f"train-{place:05d}-of-00002.tfrecord").write_bytes(b"")
    (folder / "categories.json").write_text(json.dumps(TABLE.to_list()))
    return folder


def test_what_is_found(records: Path, tmp_path: Path) -> None:
    run, data = tmp_path / "run", {"task.train_data.input_path": f"{records}/train-*"}
    found = inputs.check(tiny_experiment(**data), run)
    assert [Path(path).name for path in found.record_files] == [
        "train-00000-of-00002.tfrecord",
        "train-00001-of-00002.tfrecord",
    ]
    assert (found.table, found.changes) == (TABLE, [])
    assert not run.exists()

    RunDirectory(run).start(tiny_experiment(**data), TABLE)
    again = inputs.check(tiny_experiment(**data, trainer__train_steps=99), run)
    assert [(change.key, change.ours) for change in again.changes] == [("trainer.train_steps", 99)]


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"runtime.num_gpus": 3}, UsageError, "not divisible"),
        ({"task.train_data.input_path": "{records}/more-*"}, DataError, "No training records match"),
        (
            {"trainer.validation_interval": 5, "task.validation_data.input_path": "{records}/val-*"},
            DataError,
            "No validation records match",
        ),
        (
            {"trainer.validation_interval": 5, "task.annotation_file": "{records}/nowhere.json"},
            DataError,
            r"nowhere\.json do not exist",
        ),
        (
            {"trainer.validation_interval": 5, "task.annotation_file": "{records}"},
            DataError,
            "records cannot be read: Is a directory",
        ),
        ({"task.categories_file": "{records}/nowhere.json"}, DataError, "no categories file"),
        ({"task.init_checkpoint": "{records}/ckpt-1"}, RunError, "initial weights .* do not exist"),
    ],
)
def test_mistakes(
    records: Path, tmp_path: Path, changes: dict[str, Any], error: type[PanopticError], words: str
) -> None:
    settings = {"task.train_data.input_path": f"{records}/train-*", **changes}
    settings = {key: str(value).format(records=records) for key, value in settings.items()}
    with pytest.raises(error, match=words):
        inputs.check(tiny_experiment(**settings), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def convert(folder: Path, prefix: str, table: CategoryTable, sizes: tuple[int, ...] = (5, 5)) -> None:
    """Writes shards and a manifest as make-tfrecords does; the shards have no records."""
    names = [f"{prefix}-{place:05d}-of-{len(sizes):05d}.tfrecord" for place in range(len(sizes))]
    for name, size in zip(names, sizes, strict=True):
        (folder / name).write_bytes(bytes(size))
    shards = [{"name": name, "bytes": size} for name, size in zip(names, sizes, strict=True)]
    content = {"shards": shards, "categories": table.to_list()}
    (folder / f"{prefix}.manifest.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda folder: None, None),
        (lambda folder: convert(folder, "train", TABLE, (5, 0)), None),  # more shards than pictures
        (
            lambda folder: (folder / "train-00001-of-00002.tfrecord").unlink(),
            "1 of 2 shards are missing: train-00001-of",
        ),
        (lambda folder: (folder / "train-00000-of-00002.tfrecord").write_bytes(b""), "the file is empty"),
        (
            lambda folder: (folder / "train-00000-of-00002.tfrecord").write_bytes(b"x"),
            "not what the conversion in train",
        ),
        (lambda folder: (folder / "train-00000-of-00001.tfrecord").write_bytes(b"x"), "conversions to 1 and 2 files"),
        (
            lambda folder: convert(folder, "train-night", TABLE),
            "train-night-00001-of-00002.tfrecord, which belong to another set and are omitted",
        ),
        (
            lambda folder: convert(
                folder,
                "train",
                CategoryTable.from_list([c | {"name": f"old {c['name']}"} for c in TABLE.to_list()], ""),
            ),
            "were made with other categories: category 3 is 'old ground' (stuff) there, 'ground' (stuff) here",
        ),
    ],
)
def test_records_that_are_not_one_whole_set_are_told(
    records: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[Path], object],
    words: str | None,
) -> None:
    convert(records, "train", TABLE)
    spoil(records)
    settings = {"task.train_data.input_path": f"{records}/train-*"}
    found = inputs.check(tiny_experiment(**settings), tmp_path / "run")
    error = "".join(capsys.readouterr().err.split())  # lines break anywhere in a path
    assert "".join(words.split()) in error if words else "warning" not in error
    assert not any("night" in path for path in found.record_files)


def test_settings_that_do_not_fit_the_data_are_told(
    shapes_records: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs, "_free_memory", lambda: 1000)
    settings = {
        "task.train_data.input_path": f"{shapes_records}/train-*",
        "task.train_data.parser.max_num_instances": 1,
        "task.model.detection_generator.max_num_detections": 2,
        "task.model.panoptic_segmentation_generator.stuff_area_threshold": 1e6,
    }
    inputs.check(tiny_experiment(**settings), tmp_path / "run")
    error = " ".join(capsys.readouterr().err.split())
    for words in (
        "training uses 1 of them. Raise task.train_data.parser.max_num_instances.",
        "at most 2 of them. Raise task.model.detection_generator.max_num_detections.",
        "100% of the stuff segments are not larger than 1,000,000 pixels",
        "Lower task.train_data.shuffle_buffer_size.",
    ):
        assert words in error
    monkeypatch.undo()
    settings = {"task.train_data.input_path": f"{shapes_records}/train-*"}
    settings |= {"task.model.panoptic_segmentation_generator.stuff_area_threshold": 64}
    inputs.check(tiny_experiment(**settings), tmp_path / "run")
    assert "warning" not in capsys.readouterr().err


@pytest.mark.parametrize(("kind", "words"), [(1, "is stuff"), (0, "is a thing")])
def test_a_data_set_of_one_kind_is_told(
    records: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: int, words: str
) -> None:
    table = CategoryTable.from_list([{"id": i, "name": str(i), "isthing": kind} for i in (1, 2)], "")
    settings = {"task.train_data.input_path": f"{records}/train-*"}
    inputs.check(tiny_experiment(**settings), tmp_path / "run", table)
    assert f"None of the 2 categories {words}. Check isthing" in capsys.readouterr().err


def test_categories_that_do_not_fit_the_network(records: Path, tmp_path: Path) -> None:
    table = CategoryTable.from_list([{"id": 300, "name": "ufo", "isthing": 1}], "test")
    heads = {"task.model.num_classes": 91, "task.model.stuff_classes_offset": 90}
    with pytest.raises(PanopticError, match="ufo"):
        inputs.check(tiny_experiment(**heads), tmp_path / "run", table)


def test_initial_weights_are_needed_by_a_new_run_only(tmp_path: Path) -> None:
    experiment = tiny_experiment(**{"task.init_checkpoint": str(tmp_path / "gone")})
    run = RunDirectory(tmp_path / "run")
    run.start(experiment, TABLE)
    with pytest.raises(RunError, match="do not exist"):
        inputs.check(experiment, run.path, TABLE)
    folder = Path(run.checkpoints)
    folder.mkdir()
    (folder / "ckpt-1.index").write_bytes(b"")
    (folder / "checkpoint").write_text('model_checkpoint_path: "ckpt-1"\n')
    inputs.check(experiment, run.path, TABLE)


def test_initial_weights_at_what_cannot_be_a_bucket() -> None:
    with pytest.raises(RunError, match=r"gs://my bucket/ckpt-1 cannot be reached: .*control characters"):
        inputs.check_source(find_source("gs://my bucket/ckpt-1", option="--init-checkpoint"))


def test_the_checks_need_no_tensorflow(records: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from panoptic_cli.config import load_experiment; from panoptic_cli.training import inputs;"
        f"data = ('task.train_data.input_path', {str(records / 'train-*')!r});"
        f"inputs.check(load_experiment('panoptic_fpn_shapes', options=[data]), {str(tmp_path / 'run')!r});"
        "assert not {'tensorflow', 'keras'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"trainer.optimizer_config.warmup.linear.warmup_steps": 11}, None),
        (
            {"trainer.optimizer_config.warmup.linear.warmup_steps": 12},
            "The training ends after 12 steps, before its warm-up of 12 has reached the full learning rate. Lower "
            "trainer.optimizer_config.warmup.linear,",
        ),
        ({"trainer.optimizer_config.warmup.type": None, "trainer.train_steps": 1}, None),
    ],
)
def test_a_warm_up_as_long_as_the_training_is_told(
    shapes_records: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    settings: dict[str, Any],
    words: str | None,
) -> None:
    settings = {"task.train_data.input_path": f"{shapes_records}/train-*", **settings}
    inputs.check(tiny_experiment(**settings), tmp_path / "run")
    error = " ".join(capsys.readouterr().err.split())
    assert words in error if words else "warning" not in error
