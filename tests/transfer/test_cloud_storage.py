"""Uploads to a Cloud Storage emulator: everything arrives and is verified, nothing is sent twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cloud_emulator import BUCKET
from panoptic_cli.commands.main import run

from panoptic_cli.errors import DataError, TransferError, UsageError
from panoptic_cli.transfer import storage_errors
from panoptic_cli.transfer.storage_errors import explain
from panoptic_cli.transfer.upload import run_uploads
from panoptic_cli.transfer.upload_plan import Destination, list_files, parse_destination, plan_uploads


def _run_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    capsys.readouterr()
    code = run([*arguments, "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_every_byte_arrives_and_a_second_run_sends_nothing(
    storage: Any, records: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = f"gs://{BUCKET}/coco/v1/"
    code, result = _run_json(capsys, "upload", str(records), place)
    assert code == 0
    assert result["files_sent"] == 3
    assert result["bytes_sent"] == (9 << 20) + 1000
    there = {blob.name: blob for blob in storage.list_blobs(BUCKET)}
    assert sorted(there) == ["coco/v1/sub/empty", "coco/v1/train-0", "coco/v1/val-0"]
    for name, blob in there.items():
        assert blob.download_as_bytes() == (records / name.removeprefix("coco/v1/")).read_bytes()

    generations = {blob.name: blob.generation for blob in storage.list_blobs(BUCKET)}
    assert all(generations.values())
    code, again = _run_json(capsys, "upload", str(records), place)
    assert (code, again["files_sent"], again["files_unchanged"]) == (0, 0, 3)
    assert {blob.name: blob.generation for blob in storage.list_blobs(BUCKET)} == generations

    (records / "val-0").write_bytes(b"other" * 200)  # same size
    code, third = _run_json(capsys, "upload", str(records), place)
    assert (code, third["files_sent"]) == (0, 1)
    assert [item["object"] for item in third["files"] if item["action"] == "replace"] == ["coco/v1/val-0"]
    assert storage.bucket(BUCKET).blob("coco/v1/val-0").download_as_bytes() == b"other" * 200


def test_many_small_files_with_many_workers(storage: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "shards"
    folder.mkdir()
    for number in range(60):
        (folder / f"{number:02d}").write_bytes(bytes([number]) * 1000)
    place = Destination(BUCKET, "many/")
    bucket = storage.bucket(BUCKET)
    sent = run_uploads(bucket, plan_uploads(bucket, list_files(folder), folder, place), place, workers=24)
    assert len(sent) == 60
    there = {blob.name: blob.crc32c for blob in storage.list_blobs(BUCKET, prefix="many/")}
    assert there == {item.name: item.crc32c for item in sent}
    assert "pool is full" not in caplog.text


def test_a_dry_run_sends_nothing(storage: Any, records: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["upload", str(records), f"gs://{BUCKET}", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "3 files (9.4 MB) would be sent" in out
    assert "train-0" in out
    assert list(storage.list_blobs(BUCKET)) == []


def test_the_default_source_is_the_records_of_the_data_folder(
    storage: Any, records: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, result = _run_json(capsys, "upload", f"gs://{BUCKET}/x", "--data-dir", str(records.parent))
    assert code == 0
    assert {item["object"] for item in result["files"]} == {"x/train-0", "x/val-0", "x/sub/empty"}


def test_a_missing_bucket_has_its_own_message(storage: Any, records: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["upload", str(records), "gs://nowhere/x"]) == 1
    assert "gcloud storage buckets create gs://nowhere" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("content", [bytes(1000), bytes(900), bytes(1100)])
def test_a_file_that_changes_during_the_upload_is_reported_and_the_others_are_sent(
    storage: Any, records: Path, content: bytes
) -> None:
    bucket = storage.bucket(BUCKET)
    planned = plan_uploads(bucket, list_files(records), records, Destination(BUCKET, ""))
    (records / "val-0").write_bytes(content)  # after its checksum was computed
    with pytest.raises(TransferError, match=r"1 of 3 files.*val-0: the file changed while"):
        run_uploads(bucket, planned, Destination(BUCKET, ""))
    assert {"train-0", "sub/empty"} <= {blob.name for blob in storage.list_blobs(BUCKET)}


def test_hidden_files_and_links_are_skipped_by_default(records: Path) -> None:
    assert [path.name for path in list_files(records)] == ["empty", "train-0", "val-0"]
    with pytest.raises(DataError, match="does not exist"):
        list_files(records / "nothing")
    (records.parent / "void").mkdir()
    with pytest.raises(DataError, match="nothing to upload"):
        list_files(records.parent / "void")


def test_hidden_files_and_links_are_sent_on_request(
    storage: Any, records: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (records / "sub" / "round").symlink_to(records)  # a cycle: no file is sent twice
    place = f"gs://{BUCKET}/x"
    code, result = _run_json(capsys, "upload", str(records), place, "--include-hidden", "--follow-links")
    assert code == 0
    expected = ["x/.git/config", "x/.hidden", "x/link", "x/sub/empty", "x/train-0", "x/val-0"]
    assert sorted(item["object"] for item in result["files"]) == expected
    assert sorted(blob.name for blob in storage.list_blobs(BUCKET)) == expected
    assert storage.bucket(BUCKET).blob("x/link").download_as_bytes() == (records / "val-0").read_bytes()


@pytest.mark.parametrize(
    ("url", "prefix"), [("gs://b", ""), ("gs://b/", ""), ("gs://b/x", "x/"), ("gs://b/x/y/", "x/y/")]
)
def test_destinations(url: str, prefix: str) -> None:
    assert parse_destination(url) == Destination("b", prefix)


@pytest.mark.parametrize("url", ["b/x", "s3://b/x", "gs://", "gs:///x", "gs://b//x"])
def test_invalid_destinations(url: str) -> None:
    with pytest.raises(UsageError, match="gs://BUCKET/PREFIX"):
        parse_destination(url)


def test_each_error_has_its_own_message_without_the_text_of_the_library() -> None:
    import google.api_core.exceptions as api
    import google.auth.exceptions as auth
    import requests

    secret = "upload_id=s3cret"
    errors = [
        auth.DefaultCredentialsError(secret),
        auth.RefreshError(secret),
        auth.TransportError(secret),
        api.Unauthorized(secret),
        api.Forbidden(secret),
        api.NotFound(secret),
        api.ServiceUnavailable(secret),
        api.BadRequest(secret),
        requests.ConnectionError(secret),
        storage_errors.ChecksumMismatchError(secret),
        OSError(5, "Input/output error", "shard"),
    ]
    messages = [explain(error, "b") for error in errors]
    assert len({message for message, _ in messages}) == len(errors)
    assert all(hint and "s3cret" not in message + hint for message, hint in messages)
    wrapped = api.RetryError("gave up", api.Forbidden(secret))
    assert explain(wrapped, "b") == messages[4]


def test_a_bug_is_not_reported_as_a_transfer_error() -> None:
    with pytest.raises(ZeroDivisionError):
        explain(ZeroDivisionError(), "b")
