"""`panoptic make-tfrecords` as a user calls it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from panoptic_cli.commands.main import run
from PIL import Image

Out = pytest.CaptureFixture[str]


def _json(capsys: Out, *arguments: str, code: int = 0) -> Any:
    capsys.readouterr()
    assert run([*arguments, "--json"]) == code
    return json.loads(capsys.readouterr().out)


def test_cocos_layout_is_the_default(dataset: Path, capsys: Out) -> None:
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


def test_data_in_another_layout(mine: Path, capsys: Out) -> None:
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
def test_the_pictures_are_found_beside_json_or_masks(
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


def test_pictures_in_an_unusual_place_are_asked_for(dataset: Path, tmp_path: Path, capsys: Out) -> None:
    (dataset / "panoptic_val2017").rename(tmp_path / "labels")
    annotations = dataset / "annotations" / "panoptic_val2017.json"
    arguments = ["--panoptic-annotations", str(annotations), "--panoptic-masks", str(tmp_path / "labels")]
    assert run(["make-tfrecords", *arguments]) == 2
    assert "--image-dir" in capsys.readouterr().err


def test_skipped_and_changed_objects_and_pictures_are_reported(dataset: Path, capsys: Out) -> None:
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
    assert run([*arguments, "--on-bad-data", "skip"]) == 0  # all shards are kept and counted again
    shown = capsys.readouterr().out
    assert "skipped 1 object: empty mask" in shown
    assert "skipped 1 picture: picture missing" in shown
    assert "1 box cut at the picture's edge" in shown


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
def test_wrong_calls_are_explained(
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


@pytest.mark.parametrize("option", [[], ["--exif", "apply"], ["--exif", "ignore"]])
def test_what_becomes_of_an_orientation_is_told(dataset: Path, capsys: Out, option: list[str]) -> None:
    picture = next((dataset / "val2017").glob("*.jpg"))
    exif = Image.Exif()
    exif[0x0112] = 3  # the annotations fit both ways
    with Image.open(picture) as opened:
        opened.save(picture, exif=exif)
    words = ["--data-dir", str(dataset), "--split", "val", "--workers", "1", *option]
    (split,) = _json(capsys, "make-tfrecords", *words)["splits"]
    used = "left as stored" if "ignore" in option else "turned as the EXIF orientation says"
    ((note, count),) = split["notes"].items()
    assert used in note
    assert "(see --exif)" in note
    assert count == 1
