"""Category maps and merged stuff in records, against the same changes made to the data set's files by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from panoptic_cli.commands.main import run

from panoptic_cli.coco.dataset import read_dataset
from panoptic_cli.coco.layout import find_splits
from panoptic_cli.demo.shapes import DISC, GRASS, SKY, SQUARE, TRIANGLE, WATER
from panoptic_cli.images import masks, panoptic_png
from panoptic_cli.records import schema
from panoptic_cli.records.schema import decode_example
from panoptic_cli.records.tfrecord import read_records

Out = pytest.CaptureFixture[str]


def _convert(data: Path, capsys: Out, *options: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Converts the validation split; returns its summary and the examples in the order of the data set."""
    arguments = ["make-tfrecords", "--data-dir", str(data), "--split", "val", "--val-shards", "1", "--workers", "1"]
    capsys.readouterr()
    assert run([*arguments, *options, "--json"]) == 0
    (summary,) = json.loads(capsys.readouterr().out)["splits"]
    (path,) = (data / "tfrecords").glob("val-*")
    return summary, [decode_example(record) for record in read_records(path)]


def _split_a_stuff_segment(data: Path) -> int:
    """Divides the largest stuff segment of the first picture in two halves; returns its category."""
    dataset = read_dataset(find_splits(data, ["val"])[0])
    picture = dataset.pictures[0]
    stuff = [s for s in picture.segments if not dataset.table.by_id[s.category_id].isthing]
    largest = max(stuff, key=lambda s: s.area or 0)
    path = data / "panoptic_val2017" / picture.mask_name
    ids = panoptic_png.read_segment_ids(path)
    rows, columns = np.nonzero(ids == largest.id)
    half = columns > np.median(columns)
    ids[rows[half], columns[half]] = 1
    path.write_bytes(panoptic_png.encode_ids(ids))
    file = data / "annotations" / "panoptic_val2017.json"
    value = json.loads(file.read_text())
    (annotation,) = (a for a in value["annotations"] if a["image_id"] == picture.id)
    for info in annotation["segments_info"]:
        del info["area"], info["bbox"]
    annotation["segments_info"].append({"id": 1, "category_id": largest.category_id})
    file.write_text(json.dumps(value))
    return largest.category_id


def test_stuff_in_several_segments_is_told_and_merged(dataset: Path, capsys: Out) -> None:
    _, whole = _convert(dataset, capsys)
    category = _split_a_stuff_segment(dataset)
    kind = "stuff category in several segments"
    assert run(["inspect", str(dataset), "--json"]) == 0
    found = {p["kind"]: p for p in json.loads(capsys.readouterr().out)["splits"]["val"]["problems"]}
    assert found[kind]["severity"] == "warning"
    summary, divided = _convert(dataset, capsys)
    assert [n for note, n in summary["notes"].items() if "--merge-stuff" in note] == [1]
    assert run(["inspect", str(dataset / "tfrecords"), "--json"]) == 0
    found = {p["kind"]: p for p in json.loads(capsys.readouterr().out)["problems"]}
    assert found[kind]["examples"][0].endswith(f"2 segments of category {category}")
    summary, merged = _convert(dataset, capsys, "--merge-stuff")
    assert [n for note, n in summary["notes"].items() if "merged" in note] == [1]
    assert len(divided[0][schema.SEGMENT_ID]) == len(whole[0][schema.SEGMENT_ID]) + 1
    for key in (schema.SEGMENT_ID, schema.SEGMENT_CATEGORY, schema.SEGMENT_AREA, schema.SEGMENT_MASK):
        assert [list(example[key]) for example in merged] == [list(example[key]) for example in whole]


def test_a_category_map_changes_the_records(dataset: Path, capsys: Out, tmp_path: Path) -> None:
    path = tmp_path / "map.yaml"
    path.write_text(f"circle: {{name: round, id: 1}}\n{SQUARE}: drop\ngrass: ground\nwater: ground\nsky: thing\n")
    _, before = _convert(dataset, capsys)
    summary, after = _convert(dataset, capsys, "--category-map", str(path))
    table = json.loads((dataset / "tfrecords" / "categories.json").read_text())
    assert [(c["id"], c["name"], c["isthing"]) for c in table] == [
        *((GRASS, "ground", 0), (1, "round", 1), (SKY, "sky", 1), (TRIANGLE, "triangle", 1))
    ]
    new = np.zeros(256, int)
    new[[GRASS, WATER, DISC, SKY, TRIANGLE]] = GRASS, GRASS, 1, SKY, TRIANGLE
    merged = dropped = 0
    for old, example in zip(before, after, strict=True):
        categories = masks.decode_png(example[schema.CATEGORY_MASK][0])
        np.testing.assert_array_equal(categories, new[masks.decode_png(old[schema.CATEGORY_MASK][0])])
        places = masks.decode_png(example[schema.SEGMENT_MASK][0])
        listed = np.array([0, *example[schema.SEGMENT_CATEGORY]])
        np.testing.assert_array_equal(listed[places], categories)
        np.testing.assert_array_equal(np.bincount(places.ravel())[1:], example[schema.SEGMENT_AREA])
        assert np.count_nonzero(listed == GRASS) <= 1
        both = np.isin(old[schema.SEGMENT_CATEGORY], [GRASS, WATER])
        merged += int(both.sum()) - int(np.count_nonzero(listed == GRASS))
        dropped += int(np.count_nonzero(old[schema.OBJECT_LABEL] == SQUARE))
        labels = [new[label] for label in old[schema.OBJECT_LABEL] if label != SQUARE]
        assert list(example[schema.OBJECT_LABEL]) == [*labels, *[SKY] * np.count_nonzero(listed == SKY)]
        if SKY in listed:
            mask = masks.decode_png(example[schema.OBJECT_MASK][-1])
            np.testing.assert_array_equal(mask, categories == SKY)
    assert merged
    assert dropped
    assert [n for note, n in summary["notes"].items() if "merged" in note] == [merged]
    assert list(summary["skipped_objects"].values()) == [dropped]


def test_one_split_is_divided(dataset: Path, capsys: Out) -> None:
    arguments = ["make-tfrecords", "--data-dir", str(dataset), "--shards", "1", "--workers", "1", "--json"]
    assert run([*arguments, "--split", "train", "--val-share", "0.3", "--seed", "4"]) == 0
    train, val = json.loads(capsys.readouterr().out)["splits"]
    assert (train["prefix"], val["prefix"]) == ("train", "val")
    assert train["pictures"] + val["pictures"] == 12
    records = {
        name: [decode_example(r)[schema.IMAGE_SOURCE_ID][0] for r in read_records(path)]
        for name in ("train", "val")
        for path in (dataset / "tfrecords").glob(f"{name}-*")
    }
    assert len({*records["train"], *records["val"]}) == 12
    assert run([*arguments, "--val-share", "0.3", "--dry-run"]) == 2
    assert "choose it with --split" in capsys.readouterr().err
    for options in (["--split", "train", "--val-share", "1"], ["--seed", "4"]):
        assert run([*arguments, *options]) == 2
