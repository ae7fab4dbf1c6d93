"""Manifests: the official figures, and errors for paths outside the data folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from panoptic_cli.errors import ConfigError, DataError
from panoptic_cli.transfer.manifest import load_manifest, official_manifest


def test_the_official_manifest_has_every_size_and_checksum() -> None:
    archives = {archive.path: archive for archive in official_manifest().archives}
    assert len(archives) == 4
    assert all(archive.size and archive.sha256 for archive in archives.values())
    # url_checksums/coco.txt of tensorflow/datasets
    assert archives["zips/val2017.zip"].size == 815_585_330
    assert archives["zips/val2017.zip"].sha256 is not None
    assert archives["zips/val2017.zip"].sha256.startswith("4f7e2ccb2866ec50")


def test_a_split_needs_only_its_outputs() -> None:
    outputs = [o.to for archive in official_manifest().archives for o in archive.outputs_for(["val"])]
    assert outputs == [
        "val2017/",
        "annotations/instances_val2017.json",
        "annotations/panoptic_val2017.json",
        "panoptic_val2017/",
    ]


@pytest.mark.parametrize("to", ["../out/", "/etc/", "a/../../b/", "C:/x/", "a\\b/"])
def test_outputs_stay_in_the_data_folder(tmp_path: Path, to: str) -> None:
    file = tmp_path / "m.json"
    output = {"members": "a/", "to": to}
    file.write_text(json.dumps({"name": "x", "archives": [{"path": "a.zip", "outputs": [output]}]}))
    with pytest.raises(ConfigError, match=r"archives\.0\.outputs\.0\.to"):
        load_manifest(file)


def test_all_problems_of_a_manifest_are_listed(tmp_path: Path) -> None:
    file = tmp_path / "m.json"
    archive = {"path": "a.zip", "sha256": "xyz", "outputs": [{"members": "a/", "to": "a"}], "sized": 3}
    file.write_text(json.dumps({"archives": [archive]}))
    with pytest.raises(ConfigError) as caught:
        load_manifest(file)
    for key in ("name", "archives.0.sha256", "archives.0.sized", "archives.0.outputs.0"):
        assert key in caught.value.message


def test_two_outputs_with_the_same_target_are_an_error(tmp_path: Path) -> None:
    file = tmp_path / "m.json"
    outputs = [{"members": "a/", "to": "c/"}, {"members": "b/", "to": "c/"}]
    file.write_text(json.dumps({"name": "x", "archives": [{"path": "a.zip", "outputs": outputs}]}))
    with pytest.raises(ConfigError, match="c/"):
        load_manifest(file)


def test_a_missing_manifest_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.json"):
        load_manifest(tmp_path / "nowhere.json")
