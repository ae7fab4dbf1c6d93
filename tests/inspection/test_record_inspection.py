from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from panoptic_cli.images import masks
from panoptic_cli.inspection.record_files import compare_with_manifests, inspect_records
from panoptic_cli.records import schema
from panoptic_cli.records.files import find_record_files
from panoptic_cli.records.tfrecord import TFRecordWriter, read_records

Features = dict[str, Any]


def _paths(pattern: str) -> list[Path]:
    return [Path(path) for path in find_record_files(pattern)]


@pytest.fixture
def folder(shapes_records: Path, tmp_path: Path) -> Path:
    """A copy of the records of shapes: train in 3 shards, val in 1."""
    return Path(shutil.copytree(shapes_records, tmp_path / "records"))


def _shard(folder: Path) -> Path:
    return next(folder.glob("val-*"))


def _rewrite(path: Path, change: Callable[[Features], Any]) -> None:
    """Changes the first record of a file."""
    first, *others = read_records(path)
    features: Features = dict(schema.decode_example(first))
    change(features)
    with TFRecordWriter(path) as writer:
        for record in [schema.encode_example(features), *others]:
            writer.write(record)


def _first(key: str, value: Any) -> Callable[[Features], Any]:
    """Replaces the first value of a feature."""

    def change(features: Features) -> None:
        values = features[key]
        features[key] = (
            [value, *values[1:]] if isinstance(values, list) else np.array([value, *values[1:]], values.dtype)
        )

    return change


def _grow(features: Features, key: str) -> None:
    labels = masks.decode_png(features[key][0])
    features[key] = [masks.encode_png(np.pad(labels, 1))]


def _swap_boxes(features: Features) -> None:
    for key in (schema.OBJECT_XMIN, schema.OBJECT_XMAX, schema.OBJECT_YMIN, schema.OBJECT_YMAX):
        features[key] = features[key][::-1].copy()


def _shift_categories(features: Features) -> None:
    labels = masks.decode_png(features[schema.CATEGORY_MASK][0])
    features[schema.CATEGORY_MASK] = [masks.encode_png(np.where(labels == 7, 2, labels))]
    features[schema.SEGMENT_CATEGORY] = np.where(features[schema.SEGMENT_CATEGORY] == 7, 7, 7)


CASES: dict[str, tuple[Callable[[Features], Any], str]] = {
    "no picture": (lambda f: f.pop(schema.IMAGE_ENCODED), "missing feature"),
    "height is text": (lambda f: f.update({schema.IMAGE_HEIGHT: b"12"}), "feature of a wrong type"),
    "wrong height": (_first(schema.IMAGE_HEIGHT, 7), "picture of another size"),
    "wrong format": (_first(schema.IMAGE_FORMAT, b"png"), "picture of another format"),
    "wrong checksum": (_first(schema.IMAGE_SHA256, b"0" * 64), "picture differs from its checksum"),
    "cut picture": (
        lambda f: _first(schema.IMAGE_ENCODED, f[schema.IMAGE_ENCODED][0][:500])(f),
        "unreadable picture",
    ),
    "a label too few": (
        lambda f: f.update({schema.OBJECT_LABEL: f[schema.OBJECT_LABEL][1:]}),
        "object lists of different lengths",
    ),
    "crowd of 2": (_first(schema.OBJECT_IS_CROWD, 2), "crowd flag is not 0 or 1"),
    "box outside": (_first(schema.OBJECT_XMAX, 1.5), "box outside the picture"),
    "box not a number": (_first(schema.OBJECT_XMAX, np.nan), "box outside the picture"),
    "box without area": (_first(schema.OBJECT_YMAX, 0.0), "box without area"),
    "boxes of other objects": (_swap_boxes, "object box differs from its mask"),
    "no mask": (_first(schema.OBJECT_MASK, b"x"), "unusable object mask"),
    "mask of another size": (
        _first(schema.OBJECT_MASK, masks.encode_png(np.ones((3, 4), np.uint8))),
        "unusable object mask",
    ),
    "map of another size": (lambda f: _grow(f, schema.SEMANTIC_MASK), "unusable label picture"),
    "a segment too few": (
        lambda f: f.update(
            {
                k: f[k][:-1]
                for k in (schema.SEGMENT_ID, schema.SEGMENT_CATEGORY, schema.SEGMENT_IS_CROWD, schema.SEGMENT_AREA)
            }
        ),
        "segment map differs from the lists",
    ),
    "segment lists apart": (
        lambda f: f.update({schema.SEGMENT_ID: f[schema.SEGMENT_ID][:-1]}),
        "segment lists of different lengths",
    ),
    "segment twice": (lambda f: f[schema.SEGMENT_ID].fill(9), "duplicate segment id"),
    "wrong area": (_first(schema.SEGMENT_AREA, 1), "area differs from the mask"),
    "other categories": (_shift_categories, "category mask differs from the segments"),
    "unknown label": (_first(schema.OBJECT_LABEL, 444), "unknown category"),
}


@pytest.mark.parametrize("case", CASES)
def test_each_problem_of_a_record_is_found_with_its_place(folder: Path, case: str) -> None:
    change, kind = CASES[case]
    path = _shard(folder)
    _rewrite(path, change)
    found = inspect_records([path], workers=1).findings.by_kind
    assert kind in found
    if kind != "unknown category":  # reported for the whole set
        assert f"{path.name}, record 0" in found[kind].examples[0]


def test_undamaged_records_have_no_problems(folder: Path) -> None:
    paths = _paths(str(folder))
    report = inspect_records(paths, workers=1)
    compare_with_manifests(report, paths)
    assert report.findings.to_list() == []
    assert (report.counts["files"], report.counts["records"]) == (4, 16)
    value = report.to_dict()
    assert sum(category["objects"] for category in value["categories"]) == report.counts["objects"]
    assert sum(c["pixel_share"] for c in value["categories"]) + value["void_share"] == pytest.approx(1)


def test_the_result_does_not_depend_on_the_number_of_workers(folder: Path) -> None:
    _rewrite(_shard(folder), CASES["wrong area"][0])
    paths = _paths(str(folder))
    assert inspect_records(paths, workers=1).to_dict() == inspect_records(paths, workers=2).to_dict()


def test_damage_is_reported_with_its_place_and_other_shards_are_read(folder: Path) -> None:
    paths = _paths(f"{folder}/train-*")
    content = paths[1].read_bytes()
    second = 16 + len(next(read_records(paths[1])))
    for damaged, where in (
        (content[: second + 20], f"record 1 at byte {second}: the file ends inside a record"),
        (
            content[:second] + b"\0" + content[second + 1 :],
            f"record 1 at byte {second}: the checksum of the record's length",
        ),
        (
            content[: second + 30] + b"~~" + content[second + 32 :],
            f"record 1 at byte {second}: the checksum of the record's bytes",
        ),
    ):
        paths[1].write_bytes(damaged)
        report = inspect_records(paths, workers=1)
        compare_with_manifests(report, paths)
        (finding,) = report.findings.ordered()
        assert finding.kind == "damaged record file"
        assert f"{paths[1]}, {where}" in finding.examples[0]
        assert report.counts["records"] == 9  # all of two shards of 4, and one of the damaged shard


def test_differences_from_the_manifest_are_reported(folder: Path) -> None:
    paths = _paths(f"{folder}/train-*")
    manifest = folder / "train.manifest.json"
    first, second, third = paths
    first.write_bytes(second.read_bytes())
    kept = list(read_records(third))[:-1]
    with TFRecordWriter(third) as writer:
        for record in kept:
            writer.write(record)
    second.unlink()
    value = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**value, "complete": False}))
    (folder / "train-00000-of-00009.tfrecord").write_bytes(b"")
    paths = _paths(f"{folder}/train-*")
    report = inspect_records(paths, workers=1)
    compare_with_manifests(report, paths)
    found = {f.kind: f.examples for f in report.findings.ordered()}
    differ = found.pop("shard differs from the manifest")
    assert differ[0].startswith(f"{first.name} has a different CRC-32C")
    assert differ[1].startswith(f"{third.name} has 3 records")
    assert found["shard missing"][0].startswith(second.name)
    assert found["shard of another conversion"][0].startswith("train-00000-of-00009")
    assert "conversion not finished" in found


@pytest.mark.parametrize("text", ["[]", "{}", '{"shards": [1]}', '{"shards": [{"name": 3}]}', "{"])
def test_an_odd_manifest_is_a_warning(folder: Path, text: str) -> None:
    (folder / "val.manifest.json").write_text(text)
    paths = [_shard(folder)]
    report = inspect_records(paths, workers=1)
    compare_with_manifests(report, paths)
    assert [(f.kind, f.severity) for f in report.findings.ordered()] == [("manifest unreadable", "warning")]


def test_missing_shards_are_a_warning_without_a_manifest(folder: Path) -> None:
    (folder / "train.manifest.json").unlink()
    next(folder.glob("train-*")).unlink()
    paths = _paths(f"{folder}/train-*")
    report = inspect_records(paths, workers=1)
    compare_with_manifests(report, paths)
    (finding,) = report.findings.ordered()
    assert finding.severity == "warning"
    assert "2 of 3 files exist" in finding.examples[0]


def test_a_picture_in_two_shards_is_reported(folder: Path) -> None:
    copy = folder / "val-again.tfrecord"
    copy.write_bytes(_shard(folder).read_bytes())
    report = inspect_records([_shard(folder), copy], workers=1)
    assert report.findings.by_kind["picture in several records"].count == 4


@pytest.mark.shared
def test_the_reference_records_have_no_problems(shared: Path) -> None:
    paths = _paths(str(shared / "conformance" / "tfrecords" / "*"))
    report = inspect_records(paths, workers=1)
    assert report.findings.to_list() == []
    assert report.counts["records"] == 14
