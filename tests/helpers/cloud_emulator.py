"""A local Cloud Storage emulator with one bucket."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import pytest

BUCKET = "records"


@contextlib.contextmanager
def emulator(bucket: str = BUCKET) -> Iterator[str]:
    """Runs the emulator; yields its URL."""
    server_module = pytest.importorskip("gcp_storage_emulator.server", reason="gcp-storage-emulator is not installed")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = server_module.create_server("127.0.0.1", port, in_memory=True, default_bucket=bucket)
    server.start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.stop()
