"""Benchmark of uploads to an emulator on this machine."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from benchmarks.common import Row

_BUCKET = "benchmark"
_SHARDS, _SHARD_BYTES = 8, 25_000_000
_SERVER = """
import sys, time
from gcp_storage_emulator.server import create_server
create_server("127.0.0.1", int(sys.argv[1]), in_memory=True, default_bucket=sys.argv[2]).start()
print("ready", flush=True)
time.sleep(3600)
"""


def upload(folder: Path) -> Iterator[Row]:
    """MB/s for 200 MB of shards: a sequential client, ours with 1 and 8 workers, the library's transfer manager."""
    from google.cloud.storage import transfer_manager

    from panoptic_cli.transfer.upload import make_client, run_uploads
    from panoptic_cli.transfer.upload_plan import Destination, list_files, plan_uploads

    shards = folder / "shards"
    shards.mkdir()
    random = np.random.default_rng(0)
    for number in range(_SHARDS):
        (shards / f"train-{number:05d}-of-{_SHARDS:05d}").write_bytes(random.bytes(_SHARD_BYTES))
    files = list_files(shards)

    with _emulator():
        client = make_client()
        bucket = client.bucket(_BUCKET)

        def sequential(prefix: str) -> None:
            for path in files:
                bucket.blob(prefix + path.name).upload_from_filename(str(path))

        def manager(prefix: str) -> None:
            pairs = [(str(path), bucket.blob(prefix + path.name)) for path in files]
            transfer_manager.upload_many(
                pairs, worker_type=transfer_manager.THREAD, max_workers=8, raise_exception=True
            )

        def ours(workers: int) -> Callable[[str], None]:
            def send(prefix: str) -> None:
                place = Destination(_BUCKET, prefix)
                run_uploads(bucket, plan_uploads(bucket, files, shards, place), place, workers)

            return send

        plain = _rate(sequential, "plain/")
        yield "one file after the other, upload_from_filename", plain, "MB/s", ""
        for what, send in (
            ("panoptic upload, 1 worker", ours(1)),
            ("panoptic upload, 8 workers", ours(8)),
            ("transfer_manager.upload_many, 8 threads", manager),
        ):
            rate = _rate(send, what.replace(" ", "-") + "/")
            yield what, rate, "MB/s", f"{rate / plain:.2f}x the plain sequential client"


def _rate(send: Callable[[str], None], prefix: str) -> float:
    """Returns MB/s, the better of two uploads, each with its own prefix so that no object exists before."""
    best = float("inf")
    for turn in ("a", "b"):
        begun = time.perf_counter()
        send(f"{prefix}{turn}/")
        best = min(best, time.perf_counter() - begun)
    return _SHARDS * _SHARD_BYTES / 1e6 / best


@contextlib.contextmanager
def _emulator() -> Iterator[None]:
    """Runs the emulator in its own process, so that it does not slow down the client."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-c", _SERVER, str(port), _BUCKET]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    before = {name: os.environ.get(name) for name in ("STORAGE_EMULATOR_HOST", "no_proxy")}
    os.environ.update(STORAGE_EMULATOR_HOST=f"http://127.0.0.1:{port}", no_proxy="127.0.0.1")
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield
    finally:
        process.terminate()
        process.wait()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
