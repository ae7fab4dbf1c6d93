"""`panoptic upload` without a server: usage errors, sources and credentials."""

from __future__ import annotations

from pathlib import Path

import pytest
from panoptic_cli.commands.main import run


def test_a_destination_outside_cloud_storage_is_a_usage_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["upload", str(tmp_path), "bucket/x"]) == 2
    assert "gs://BUCKET/PREFIX" in capsys.readouterr().err


def test_two_sources_are_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["upload", "a", "b", "gs://c"]) == 2
    assert "one source and one destination" in capsys.readouterr().err


def test_a_missing_source_is_reported_before_missing_credentials(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["upload", "gs://b/x", "--data-dir", str(tmp_path)]) == 1
    error = " ".join(capsys.readouterr().err.split())
    assert "tfrecords does not exist" in error
    assert "panoptic make-tfrecords" in error


def test_missing_credentials_are_reported_without_their_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "shard").write_bytes(b"x")
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "absent.json"))
    assert run(["upload", str(tmp_path), "gs://b/x"]) == 1
    error = " ".join(capsys.readouterr().err.split())
    assert "gcloud auth application-default login" in error
    assert "absent.json" not in error
