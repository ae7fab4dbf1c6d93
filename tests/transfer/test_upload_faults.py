"""`panoptic upload` through a failing proxy: every file arrives, or the command names those that did not."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from cloud_emulator import BUCKET
from fault_proxy import TOKEN, FaultProxy, Request, fault_proxy
from panoptic_cli.commands.main import run

from panoptic_cli.transfer import upload

PLACE = f"gs://{BUCKET}/v1"


def _run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    capsys.readouterr()
    code = run(list(arguments))
    captured = capsys.readouterr()
    return code, captured.out, " ".join(captured.err.split())


def _assert_all_arrived(storage: Any, records: Path) -> None:
    there = {blob.name: blob.download_as_bytes() for blob in storage.list_blobs(BUCKET)}
    assert there == {f"v1/{name}": (records / name).read_bytes() for name in ("train-0", "val-0", "sub/empty")}


def _every_upload_first(fault: int | str) -> Any:
    """Answers the first request of each kind about an object with a fault, and forwards all others."""
    seen: set[tuple[str, str, str]] = set()

    def answer(request: Request) -> int | str | None:
        if not request.is_upload:
            return None
        key = (request.method, request.path.partition("upload_id")[0], request.headers.get("content-range", ""))
        first = key not in seen
        seen.add(key)
        return fault if first else None

    return answer


@pytest.mark.slow
@pytest.mark.parametrize("fault", [503, 410, "drop", "drop after"])
def test_temporary_faults_are_retried(
    storage: Any, faults: FaultProxy, records: Path, capsys: pytest.CaptureFixture[str], fault: int | str
) -> None:
    faults.answer = _every_upload_first(fault)
    code, out, error = _run(capsys, "upload", str(records), PLACE)
    assert code == 0, error
    _assert_all_arrived(storage, records)
    assert "3 files (9.4 MB) sent and verified" in out
    before = len(faults.uploads())
    assert before > 4  # three files, and repeated requests
    code, out, _ = _run(capsys, "upload", str(records), PLACE)
    assert code == 0
    assert "0 files (0 B) sent and verified, 3 unchanged" in out
    assert len(faults.uploads()) == before


def test_only_the_lost_part_of_a_large_file_is_sent_again(
    storage: Any, faults: FaultProxy, records: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload, "_CHUNK", 8 << 20)
    failed: list[Request] = []

    def answer(request: Request) -> str | None:
        if request.headers.get("content-range", "").startswith("bytes 8388608-") and not failed:
            failed.append(request)
            return "drop"
        return None

    faults.answer = answer
    assert _run(capsys, "upload", str(records / "train-0"), PLACE)[0] == 0
    ranges = [r.headers["content-range"] for r in faults.seen if "content-range" in r.headers]
    assert ranges == ["bytes 0-8388607/9437184", *["bytes 8388608-9437183/9437184"] * 2]


def _flip(request: Request) -> bytes:
    changed = bytearray(request.body)
    changed[len(changed) // 2] ^= 1  # this is in the content, because the parts around it are much shorter
    return bytes(changed)


@pytest.mark.parametrize("name", ["train-0", "val-0"])
def test_bytes_changed_in_transit_are_sent_again(
    storage: Any, faults: FaultProxy, records: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    hit: list[Request] = []

    def change(request: Request) -> bytes:
        if len(request.body) < 900 or hit or f"v1%2F{name}" not in _object_of(request, faults):
            return request.body
        hit.append(request)
        return _flip(request)

    faults.change = change
    code, _, error = _run(capsys, "upload", str(records), PLACE)
    assert hit
    assert code == 0, error
    _assert_all_arrived(storage, records)


def _object_of(request: Request, proxy: FaultProxy) -> str:
    """Returns text with the object's name, from the request's path or metadata."""
    text = request.path + request.body[:400].decode("latin-1").replace("/", "%2F")
    return text if "v1%2F" in text else "v1%2Ftrain-0"  # parts of a resumable upload contain only its id


def test_a_file_that_always_arrives_damaged_is_named_and_the_others_arrive(
    storage: Any, faults: FaultProxy, records: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    faults.change = lambda request: _flip(request) if len(request.body) > 5000 else request.body
    code, out, error = _run(capsys, "upload", str(records), PLACE)
    assert code == 1
    assert "1 of 3 files did not reach gs://records/v1/ (the others did)" in error
    assert f"{records}/train-0: " in error
    assert "after several tries" in error
    rows = {line.split()[0]: line.split()[1] for line in out.splitlines() if line.startswith("v1/")}
    assert rows == {"v1/train-0": "FAILED", "v1/val-0": "sent", "v1/sub/empty": "sent"}
    assert {blob.name for blob in storage.list_blobs(BUCKET)} == {"v1/val-0", "v1/sub/empty"}
    faults.change = lambda request: request.body
    code, out, _ = _run(capsys, "upload", str(records), PLACE)
    assert code == 0
    assert "1 file (9.4 MB) sent and verified, 2 unchanged" in out
    _assert_all_arrived(storage, records)


def test_damaged_objects_are_detected_without_the_help_of_the_server(
    storage: Any, faults: FaultProxy, records: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """If the server does not check the announced checksum, we compare the object's checksum with the file's."""
    told = re.compile(rb'"crc32c": "[^"]*"')

    def change(request: Request) -> bytes:
        # Replace the announced checksum by text of equal length, then change the content.
        without = told.sub(lambda match: b'"other": "' + b"x" * (len(match[0]) - 11) + b'"', request.body)
        return _flip(Request(request.method, request.path, request.headers, without)) if request.body else without

    faults.change = change
    code, _, error = _run(capsys, "upload", str(records / "val-0"), PLACE)
    assert code == 1
    assert "does not have the file's CRC32C" in error


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (401, "gcloud auth application-default login"),
        (403, "gcloud storage buckets add-iam-policy-binding gs://records --member=user:YOU"),
        (404, "gcloud storage buckets create gs://records"),
    ],
)
@pytest.mark.parametrize("where", ["list", "send"])
def test_each_refusal_names_the_command_that_helps(
    storage: Any,
    faults: FaultProxy,
    records: Path,
    capsys: pytest.CaptureFixture[str],
    status: int,
    words: str,
    where: str,
) -> None:
    faults.answer = lambda request: status if request.is_upload == (where == "send") else None
    code, _, error = _run(capsys, "upload", str(records), PLACE)
    assert code == 1
    assert words in error
    assert ("3 of 3 files did not reach" in error) == (where == "send")


@pytest.mark.parametrize(
    ("status", "sentence", "words"),
    [
        (
            400,
            "Bucket is a requester pays bucket but no user project provided.",
            "error: gs://records is a requester-pays bucket",
        ),
        (
            403,
            "The billing account for the owning project is disabled in state closed",
            "Ask the owner of gs://records",
        ),
        (403, "Object 'x' is subject to bucket's retention policy and cannot be overwritten", "retention policy"),
        (412, "Request is prohibited by organization's policy constraints/gcp.resourceLocations", "(HTTP 412)"),
    ],
)
def test_the_servers_sentence_is_shown(
    storage: Any,
    faults: FaultProxy,
    records: Path,
    capsys: pytest.CaptureFixture[str],
    status: int,
    sentence: str,
    words: str,
) -> None:
    faults.answer = lambda request: (status, sentence)
    code, _, error = _run(capsys, "upload", str(records), PLACE)
    assert code == 1
    assert f'"{sentence.removesuffix(".")}' in error
    assert words in error
    assert "add-iam-policy-binding" not in error


def test_a_project_pays_for_the_requests(
    storage: Any, faults: FaultProxy, records: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, error = _run(capsys, "upload", str(records), PLACE, "--user-project", "payer")
    assert code == 0, error
    starts = [path for path in (request.path for request in faults.seen) if "/o?" in path and "upload_id" not in path]
    assert len(starts) >= 4
    assert all("userProject=payer" in path for path in starts), starts


def _service_account(folder: Path, token_uri: str) -> Path:
    """Writes credentials of a service account that does not exist."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    account = {
        "type": "service_account",
        "project_id": "nowhere",
        "private_key_id": "MARKER-key-id",
        "private_key": pem,
        "client_email": "nobody@nowhere.iam.gserviceaccount.com",
        "token_uri": token_uri,
    }
    path = folder / "key.json"
    path.write_text(json.dumps(account))
    return path


@pytest.mark.parametrize(("where", "status"), [("list", 200), ("list", 401), ("send", 400), ("send", 403)])
def test_tokens_are_never_printed(
    storage: Any, records: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, where: str
) -> None:
    """Runs with --verbose and tracebacks against a server that repeats the token in every answer."""
    emulator = os.environ.pop("STORAGE_EMULATOR_HOST")
    with fault_proxy(emulator) as proxy, fault_proxy(emulator) as sign_in:
        sign_in.answer = lambda request: "token"
        proxy.answer = lambda request: status if status != 200 and request.is_upload == (where == "send") else None
        environment = os.environ | {
            "GOOGLE_APPLICATION_CREDENTIALS": str(_service_account(tmp_path, f"{sign_in.url}/token")),
            "API_ENDPOINT_OVERRIDE": proxy.url,
            "PANOPTIC_DEBUG": "1",
        }
        command = [sys.executable, "-m", "panoptic_cli", "--verbose", "upload", str(records), PLACE]
        process = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
        assert process.returncode == (0 if status == 200 else 1), process.stderr
        assert status == 200 or "Traceback" in process.stderr  # otherwise this test would prove nothing
        assert f"Bearer {TOKEN}" in {request.headers.get("authorization") for request in proxy.seen}
        for text in (process.stdout, process.stderr):
            assert "MARKER" not in text
            assert "upload_id" not in text
            assert "PRIVATE KEY" not in text


@pytest.mark.slow
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_upload_reports_what_arrived_and_can_be_resumed(
    storage: Any, faults: FaultProxy, records: Path, end: signal.Signals
) -> None:
    def answer(request: Request) -> None:
        if len(request.body) > 5000:
            time.sleep(4)

    faults.answer = answer
    command = [sys.executable, "-m", "panoptic_cli", "upload", str(records), PLACE, "--workers", "2"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=dict(os.environ))
    deadline = time.monotonic() + 30
    while len(list(storage.list_blobs(BUCKET))) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    time.sleep(0.5)
    process.send_signal(end)
    error = " ".join(process.communicate(timeout=30)[1].split())
    assert process.returncode == 130
    assert "stopped. 2 of 3 files (1.0 kB) arrived in gs://records/v1/" in error
    faults.answer = lambda request: None
    assert run(["upload", str(records), PLACE]) == 0
    _assert_all_arrived(storage, records)
