"""Converting to a folder that already contains other shards, other splits or another conversion."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from panoptic_cli.coco.layout import find_splits
from panoptic_cli.errors import DataError, RunError
from panoptic_cli.locks import folder_lock
from panoptic_cli.records.conversion import ConversionSummary, convert_all
from panoptic_cli.records.plans import ConversionPlan


def _convert(data: Path, target: Path, shards: int = 2, split: str = "val") -> ConversionSummary:
    plan = ConversionPlan(find_splits(data, [split])[0], target, shards)
    (summary,) = convert_all([plan], 1)
    return summary


def _contents(target: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in target.iterdir()}


def test_a_manifest_of_another_form_is_ignored(generated: Path, tmp_path: Path) -> None:
    _convert(generated, tmp_path, shards=3)
    before = _contents(tmp_path)
    odd: list[Any] = [None, [None, 3, {}], [{"name": "val-00000-of-00003.tfrecord", "counts": {"pictures": "many"}}]]
    for entries in odd:
        (tmp_path / "val.manifest.json").write_text(json.dumps({"shards": entries}))
        assert _convert(generated, tmp_path, shards=3).kept_shards == 0
        assert _contents(tmp_path) == before


def test_shards_of_another_count_are_removed_if_the_manifest_lists_them(generated: Path, tmp_path: Path) -> None:
    _convert(generated, tmp_path, shards=3)
    _convert(generated, tmp_path, shards=2)
    assert sorted(p.name for p in tmp_path.glob("val-*")) == [
        "val-00000-of-00002.tfrecord",
        "val-00001-of-00002.tfrecord",
    ]
    (tmp_path / "val.manifest.json").unlink()  # now anyone could have made them
    with pytest.raises(DataError, match="shards of another conversion"):
        _convert(generated, tmp_path, shards=3)
    assert len(list(tmp_path.glob("val-*"))) == 2


def test_two_conversions_do_not_share_a_folder(generated: Path, tmp_path: Path) -> None:
    with folder_lock(tmp_path, "panoptic make-tfrecords", "wait"), pytest.raises(RunError, match="Another panoptic"):
        _convert(generated, tmp_path)
    assert list(tmp_path.iterdir()) == []
    _convert(generated, tmp_path)


def test_what_a_killed_conversion_left_is_removed(generated: Path, tmp_path: Path) -> None:
    for name in ("val-00000-of-00002.tfrecord", "val.manifest.json"):
        (tmp_path / f".{name}.7.partial").write_bytes(b"half")
    _convert(generated, tmp_path)
    assert not list(tmp_path.glob("*.partial"))


def test_other_categories_than_those_of_an_earlier_split_are_a_warning(
    generated: Path, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _convert(generated, tmp_path, split="train")
    _convert(generated, tmp_path)
    assert "other categories" not in capsys.readouterr().err
    path = dataset / "annotations" / "panoptic_val2017.json"
    value = json.loads(path.read_text())
    value["categories"][0]["name"] = "other"
    path.write_text(json.dumps(value))
    _convert(dataset, tmp_path)
    assert "the records of train were made with other categories" in capsys.readouterr().err
