"""The conversion on Beam's local runner writes the same bytes. Skipped if the extra is not installed."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from panoptic_cli.commands.main import run
from record_differences import differing_files

WITHOUT = importlib.util.find_spec("apache_beam") is None


@pytest.mark.slow
@pytest.mark.skipif(WITHOUT, reason="Apache Beam is not installed (make test-slow installs it)")
@pytest.mark.parametrize("workers", ["1", "2"])
def test_beam_writes_the_same_shards_as_one_machine(
    shapes_dir: Path, tmp_path: Path, workers: str, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["make-tfrecords", "--data-dir", str(shapes_dir), "--train-shards", "3", "--val-shards", "2", "--json"]
    assert run([*common, "--output-dir", str(tmp_path / "here"), "--workers", "1"]) == 0
    here = json.loads(capsys.readouterr().out)["splits"]
    beam = [*common, "--output-dir", str(tmp_path / "beam"), "--runner", "DirectRunner", "--workers", workers]
    assert run(beam) == 0
    there = json.loads(capsys.readouterr().out)["splits"]
    assert differing_files(tmp_path / "here", tmp_path / "beam") == []
    assert len(list((tmp_path / "beam").glob("*.tfrecord"))) == 5
    for ours, theirs in zip(here, there, strict=True):
        for name in ("pictures", "objects", "crowds", "segments", "bytes", "skipped_objects", "skipped_pictures"):
            assert ours[name] == theirs[name], name

    damaged = next((tmp_path / "beam").glob("train-*.tfrecord"))
    damaged.write_bytes(damaged.read_bytes()[:-5])
    assert run(beam) == 0
    assert [split["kept_shards"] for split in json.loads(capsys.readouterr().out)["splits"]] == [2, 2]
    assert differing_files(tmp_path / "here", tmp_path / "beam") == []


@pytest.mark.slow
@pytest.mark.skipif(WITHOUT, reason="Apache Beam is not installed (make test-slow installs it)")
def test_a_bad_picture_is_an_error_of_one_line_and_other_shards_are_kept(
    shapes_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    data = tmp_path / "data"
    shutil.copytree(shapes_dir, data)
    picture = sorted((data / "val2017").iterdir())[0]
    picture.write_bytes(picture.read_bytes()[:100])
    command = ["make-tfrecords", "--data-dir", str(data), "--split", "val", "--val-shards", "2"]
    assert run([*command, "--runner", "DirectRunner", "--workers", "1"]) == 1
    message = capsys.readouterr().err
    assert picture.name in message
    assert "Traceback" not in message
    assert len(list((data / "tfrecords").glob("*.tfrecord"))) == 1
    assert not list((data / "tfrecords").glob(".*"))


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--runner-option", "a=b"], "--runner-option is for Apache Beam"),
        (["--runner-option", "a=b", "--dry-run"], "--runner-option is for Apache Beam"),
        pytest.param(
            ["--runner", "DirectRunner"],
            "pip install 'panoptic-cli[beam]'",
            marks=pytest.mark.skipif(not WITHOUT, reason="Apache Beam is installed"),
        ),
    ],
)
def test_usage_errors(options: list[str], word: str, shapes_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["make-tfrecords", "--data-dir", str(shapes_dir), *options]) == 2
    assert word in capsys.readouterr().err
