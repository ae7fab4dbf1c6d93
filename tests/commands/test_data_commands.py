"""make-tfrecords and inspect as a user calls them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from panoptic_cli.commands.main import run

Out = pytest.CaptureFixture[str]


def _json(capsys: Out, *arguments: str, code: int = 0) -> Any:
    capsys.readouterr()
    assert run([*arguments, "--json"]) == code
    return json.loads(capsys.readouterr().out)


def test_coco_layout_by_default(dataset: Path, capsys: Out) -> None:
    value = _json(capsys, "make-tfrecords", "--data-dir", str(dataset), "--train-shards", "3", "--workers", "1")
    assert [(s["prefix"], s["pictures"], s["shards"]) for s in value["splits"]] == [
        ("train", 12, 3),
        ("val", 6, 8),
    ]
    names = {path.name for path in (dataset / "tfrecords").iterdir()}
    assert {"categories.json", "train-00002-of-00003.tfrecord", "val-00007-of-00008.tfrecord"} <= names
    categories = json.loads((dataset / "tfrecords" / "categories.json").read_text())
    assert [c["id"] for c in categories] == [5, 7, 19, 2, 12, 31]


def test_dry_run_writes_nothing(dataset: Path, capsys: Out) -> None:
    value = _json(capsys, "make-tfrecords", "--data-dir", str(dataset), "--split", "val", "--dry-run")
    target = str(dataset / "tfrecords")
    assert value["splits"] == [{"prefix": "val", "pictures": 6, "shards": 8, "output_dir": target}]
    assert not (dataset / "tfrecords").exists()


def test_data_laid_out_otherwise(mine: Path, capsys: Out) -> None:
    arguments = ["--panoptic-annotations", str(mine / "labels.json"), "--image-dir", str(mine / "pictures")]
    more = ["--output-prefix", "own", "--shards", "2", "--output-dir", str(mine / "out"), "--workers", "1"]
    value = _json(capsys, "make-tfrecords", *arguments, *more)
    assert value["splits"][0]["pictures"] == 6
    assert value["splits"][0]["objects"] > 0
    assert (mine / "out" / "own-00001-of-00002.tfrecord").is_file()


@pytest.mark.parametrize(
    ("labels", "pictures"),
    [("panoptic_mine", "mine"), ("mine_panoptic", "mine"), ("labels", "images"), ("both", "both")],
)
def test_json_and_masks_alone_are_enough(
    dataset: Path, tmp_path: Path, capsys: Out, labels: str, pictures: str
) -> None:
    moved = tmp_path / "mine"
    moved.mkdir()
    (dataset / "panoptic_val2017").rename(moved / labels)
    (moved / pictures).mkdir(exist_ok=True)
    for path in (dataset / "val2017").iterdir():
        path.rename(moved / pictures / path.name)
    (dataset / "annotations" / "panoptic_val2017.json").rename(moved / "a.json")
    arguments = ["--panoptic-annotations", str(moved / "a.json"), "--panoptic-masks", str(moved / labels)]
    value = _json(capsys, "make-tfrecords", *arguments, "--output-dir", str(moved / "out"), "--workers", "1")
    assert value["splits"][0]["pictures"] == 6
    assert value["splits"][0]["objects"] > 0


def test_pictures_that_cannot_be_guessed_are_asked_for(dataset: Path, tmp_path: Path, capsys: Out) -> None:
    (dataset / "panoptic_val2017").rename(tmp_path / "labels")
    annotations = dataset / "annotations" / "panoptic_val2017.json"
    arguments = ["--panoptic-annotations", str(annotations), "--panoptic-masks", str(tmp_path / "labels")]
    assert run(["make-tfrecords", *arguments]) == 2
    assert "--image-dir" in capsys.readouterr().err


def test_what_was_left_out_and_done_is_told(dataset: Path, capsys: Out) -> None:
    path = dataset / "annotations" / "instances_val2017.json"
    value = json.loads(path.read_text())
    value["annotations"][0]["bbox"] = [-1, 2, 30, 30]
    value["annotations"][1]["segmentation"] = []
    path.write_text(json.dumps(value))
    (dataset / "val2017" / "000000200003.jpg").unlink()
    arguments = ["make-tfrecords", "--data-dir", str(dataset), "--split", "val", "--workers", "1"]
    split = _json(capsys, *arguments, "--on-bad-data", "skip")["splits"][0]
    assert split["skipped_pictures"] == {"picture missing": 1}
    assert split["skipped_objects"] == {"empty mask": 1}
    assert split["notes"] == {"boxes cut at the picture's edge": 1}
    assert run([*arguments, "--on-bad-data", "skip"]) == 0  # all shards are kept: their counts are told again
    shown = capsys.readouterr().out
    assert "skipped 1 objects: empty mask" in shown
    assert "skipped 1 pictures: picture missing" in shown
    assert "1 boxes cut at the picture's edge" in shown


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--data-dir", "nowhere"], 1, "does not exist. Get COCO with 'panoptic download"),
        (["--split", "test"], 2, "--split is train or val"),
        (["--image-dir", "x"], 2, "--panoptic-annotations"),
        (["--output-prefix", "x"], 2, "--panoptic-annotations"),
        (
            ["--panoptic-annotations", "a.json", "--image-dir", "b", "--output-prefix", "../x"],
            2,
            "--output-prefix",
        ),
        (["--panoptic-annotations", "a.json", "--image-dir", "b", "--output-prefix", ""], 2, "--output-prefix ''"),
        (["--panoptic-annotations", "a.json", "--image-dir", "b"], 1, "panoptic annotations a.json"),
        (["--train-shards", "0"], 2, "train-shards"),
    ],
)
def test_wrong_calls(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Out,
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["make-tfrecords", *arguments]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err.replace("\n", " ")
    assert list(tmp_path.iterdir()) == []


def test_inspect_a_sound_data_set(generated: Path, capsys: Out) -> None:
    value = _json(capsys, "inspect", str(generated), "--workers", "1")
    assert value["errors"] == 0
    assert value["splits"]["train"]["pictures"] == 12
    assert value["splits"]["val"]["problems"] == []
    assert run(["inspect", str(generated), "--workers", "1"]) == 0
    assert "no problems" in capsys.readouterr().out


def test_inspect_ends_with_1_when_there_are_errors(dataset: Path, capsys: Out) -> None:
    (dataset / "val2017" / "000000200003.jpg").unlink()
    value = _json(capsys, "inspect", str(dataset), "--workers", "1", code=1)
    assert [p["kind"] for p in value["splits"]["val"]["problems"]] == ["picture missing"]


def test_inspect_records(dataset: Path, capsys: Out) -> None:
    made = _json(capsys, "make-tfrecords", "--data-dir", str(dataset), "--split", "val", "--workers", "1")
    value = _json(capsys, "inspect", str(dataset / "tfrecords" / "val-*"), "--workers", "1")
    assert (value["errors"], value["files"], value["records"]) == (0, 8, 6)
    assert value["objects"] == made["splits"][0]["objects"]
    path = dataset / "tfrecords" / "val-00000-of-00008.tfrecord"
    path.write_bytes(path.read_bytes()[:-3])
    assert _json(capsys, "inspect", str(dataset / "tfrecords"), "--workers", "1", code=1)["errors"] == 1


def test_drawing_needs_a_folder(generated: Path, capsys: Out) -> None:
    assert run(["inspect", str(generated), "--draw", "2"]) == 2
    assert "--output" in capsys.readouterr().err


def test_samples_are_drawn(generated: Path, tmp_path: Path, capsys: Out) -> None:
    pytest.importorskip("panoptic_cli.images.drawing")
    drawn = tmp_path / "drawn"
    value = _json(capsys, "inspect", str(generated), "--workers", "1", "--draw", "2", "--output", str(drawn))
    assert len(value["drawn"]) == len(list(drawn.iterdir())) == 4
