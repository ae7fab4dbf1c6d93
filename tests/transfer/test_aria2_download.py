"""`panoptic download` from a local mirror: archives are fetched, verified and extracted, and never twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from mirror_server import Mirror
from panoptic_cli.commands.main import run

from panoptic_cli.transfer.aria2c import find_aria2c

pytestmark = pytest.mark.skipif(find_aria2c() is None, reason="the program aria2c is not installed")
VAL_ZIP = "zips/val2017.zip"


def _arguments(mirror: Mirror, data: Path, *more: str) -> list[str]:
    manifest = str(mirror.root / "manifest.json")
    return ["download", "--data-dir", str(data), "--base-url", mirror.url, "--manifest", manifest, *more]


def _run_json(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> tuple[int, dict[str, Any]]:
    capsys.readouterr()
    code = run([*arguments, "--json"])
    return code, json.loads(capsys.readouterr().out)


def _tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_download_is_complete_and_a_second_one_does_nothing(
    mirror: Mirror, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "coco"
    code, result = _run_json(capsys, _arguments(mirror, data))
    assert code == 0
    assert len(result["extracted"]) == 8
    assert result["bytes_fetched"] == sum(path.stat().st_size for path in mirror.root.rglob("*.zip"))
    found = _tree(data)
    assert len([name for name in found if name.startswith("train2017/")]) == 5
    assert len([name for name in found if name.startswith("panoptic_val2017/")]) == 3
    assert {name for name in found if name.startswith("annotations/")} == {
        f"annotations/{kind}_{split}2017.json" for kind in ("instances", "panoptic") for split in ("train", "val")
    }
    assert {name.split("/")[0] for name in found} == {
        *("annotations", "train2017", "val2017", "panoptic_train2017", "panoptic_val2017", ".download.json")
    }
    requests = len(mirror.sent)
    code, again = _run_json(capsys, _arguments(mirror, data))
    assert (code, again["extracted"], again["fetched"]) == (0, [], [])
    assert len(mirror.sent) == requests


def test_kept_zips_are_used_again_after_a_folder_is_lost(
    mirror: Mirror, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "coco"
    assert run(_arguments(mirror, data, "--split", "val", "--keep-zips")) == 0
    assert (data / "zips/val2017.zip").read_bytes() == (mirror.root / VAL_ZIP).read_bytes()
    assert not (data / "train2017").exists()
    requests = len(mirror.sent)
    next((data / "val2017").iterdir()).unlink()
    code, result = _run_json(capsys, _arguments(mirror, data, "--split", "val"))
    assert (code, result["extracted"], result["fetched"]) == (0, ["val2017/"], [])
    assert len(list((data / "val2017").iterdir())) == 3
    assert len(mirror.sent) == requests
    assert (data / "zips/val2017.zip").exists()  # an earlier run was asked to keep it


def test_an_archive_with_a_wrong_checksum_is_renamed_and_downloaded_again(
    mirror: Mirror, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "coco"
    good = (mirror.root / VAL_ZIP).read_bytes()
    bad = bytearray(good)
    bad[len(bad) // 2] ^= 1
    (mirror.root / VAL_ZIP).write_bytes(bad)
    assert run(_arguments(mirror, data, "--split", "val")) == 1
    message = " ".join(capsys.readouterr().err.split())
    assert "val2017.zip has SHA-256" in message
    assert "val2017.zip.corrupt" in message
    assert (data / "zips/val2017.zip.corrupt").read_bytes() == bytes(bad)
    assert not (data / "val2017").exists()
    (mirror.root / VAL_ZIP).write_bytes(good)
    sent = mirror.bytes_sent("annotations/annotations_trainval2017.zip")
    assert run(_arguments(mirror, data, "--split", "val")) == 0
    assert len(list((data / "val2017").iterdir())) == 3
    assert mirror.bytes_sent("annotations/annotations_trainval2017.zip") == sent  # that one was correct


def test_a_wrong_size_is_reported(mirror: Mirror, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = mirror.root / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest["archives"][1].update(size=manifest["archives"][1]["size"] + 1)
    file.write_text(json.dumps(manifest))
    assert run(_arguments(mirror, tmp_path / "coco", "--split", "val")) == 1
    assert "instead of" in capsys.readouterr().err
    assert (tmp_path / "coco/zips/val2017.zip.corrupt").exists()


def test_a_missing_archive_is_reported_and_the_others_are_kept(
    mirror: Mirror, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "coco"
    mirror.status[VAL_ZIP] = 404
    code, result = _run_json(capsys, _arguments(mirror, data, "--split", "val"))
    assert code == 1
    assert f"{mirror.url}{VAL_ZIP}" in result["error"]["message"]
    assert "--base-url" in result["error"]["hint"]
    assert (data / "zips/annotations_trainval2017.zip").exists()


def test_two_data_sets_are_not_mixed_in_one_folder(
    mirror: Mirror, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "coco"
    assert run(_arguments(mirror, data, "--split", "val")) == 0
    assert run(["download", "--data-dir", str(data), "--split", "val", "--dry-run"]) == 1
    assert "different archive" in capsys.readouterr().err
