"""What is found out about records and annotations before the network is loaded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from panoptic_cli.commands.main import run

from panoptic_cli.categories import CategoryTable, read_categories
from panoptic_cli.errors import DataError
from panoptic_cli.evaluation.evaluation_data import EvaluationData, read_data
from panoptic_cli.evaluation.groundtruth import GroundTruth
from panoptic_cli.records.tfrecord import read_records


@pytest.fixture
def records(shapes_records: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(shapes_records, tmp_path / "records"))


@pytest.fixture
def read(records: Path) -> Callable[..., tuple[EvaluationData, list[str]]]:
    """Reads the validation records with a table that `change` has changed."""

    def run(change: Callable[[list[dict[str, Any]]], Any] = lambda entries: None) -> tuple[EvaluationData, list[str]]:
        entries = read_categories(records / "categories.json").to_list()
        change(entries)
        lines: list[str] = []
        table = CategoryTable.from_list(entries, "the model")
        return read_data(f"{records}/val-*", table, tell=lines.append), lines

    return run


def renumber(entries: list[dict[str, Any]]) -> None:
    for entry in entries:
        entry["id"] += 100


def test_the_same_table_says_nothing(read: Callable[..., tuple[EvaluationData, list[str]]]) -> None:
    data, lines = read()
    assert (data.images, data.categories, lines) == (4, None, [])


def test_other_ids_are_translated(read: Callable[..., tuple[EvaluationData, list[str]]], records: Path) -> None:
    data, (line,) = read(renumber)
    assert "numbers the categories otherwise than the model: they are paired by name" in line
    ours = read_categories(records / "categories.json")
    entries = ours.to_list()
    renumber(entries)
    table = CategoryTable.from_list(entries, "the model")
    for record in read_records(next(records.glob("val-*.tfrecord"))):
        plain = GroundTruth.from_record(record, ours)
        found = GroundTruth.from_record(record, table, categories=data.categories)
        assert [s.category_id - 100 for s in found.segments] == [s.category_id for s in plain.segments]
        assert [o["category_id"] - 100 for o in found.objects] == [o["category_id"] for o in plain.objects]


def test_other_names_and_kinds_are_errors(read: Callable[..., tuple[EvaluationData, list[str]]]) -> None:
    with pytest.raises(DataError, match=r"categories.json has categories that the model does not have: \d+ '"):
        read(lambda entries: entries[0].update(name="zebra"))
    with pytest.raises(DataError, match="Things and stuff differ between the model and"):
        read(lambda entries: entries[0].update(isthing=1 - entries[0]["isthing"]))


def test_dry_runs_check_everything(
    tiny_run: Path, records: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["evaluate", "--model-dir", str(tiny_run), "--eval-data", f"{records}/val-*", "--dry-run"]
    assert run([*words, "--output", str(tmp_path / "out"), "--report", str(tmp_path / "a" / "b" / "report.html")]) == 0
    assert "4 images" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["records"]
    (tmp_path / "file").write_text("")
    panoptic = tmp_path / "panoptic.json"
    panoptic.write_text(json.dumps({"images": [], "annotations": [{"image_id": 1, "segments_info": []}]}))
    for option, path, message in (
        ("--annotation-file", panoptic, "is a panoptic JSON"),
        ("--report", tmp_path / "file" / "report.html", "cannot be written"),
        ("--output", tmp_path / "file" / "out", "cannot be written"),
    ):
        assert run([*words, option, str(path)]) == 1
        assert message in capsys.readouterr().err
