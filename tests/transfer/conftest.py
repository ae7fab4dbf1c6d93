"""Fixtures of the transfer tests: a mirror for downloads, a Cloud Storage emulator for uploads."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from cloud_emulator import emulator
from fault_proxy import FaultProxy, fault_proxy
from mirror_server import Mirror, coco_members, make_zip, manifest_for, serve


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    """A running mirror of a small COCO; its manifest is `<root>/manifest.json`."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    root = tmp_path / "mirror"
    for path, members in coco_members().items():
        make_zip(root / path, members)
    (root / "manifest.json").write_text(json.dumps(manifest_for(root)))
    with serve(root) as running:
        yield running


@pytest.fixture
def storage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A client of an emulator with one bucket."""
    from panoptic_cli.transfer.upload import make_client

    with emulator() as url:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", url)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        yield make_client()


@pytest.fixture
def faults(storage: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """A proxy in front of the emulator. New clients talk to the proxy, `storage` still to the emulator."""
    with fault_proxy(os.environ["STORAGE_EMULATOR_HOST"]) as proxy:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", proxy.url)
        yield proxy


@pytest.fixture
def records(tmp_path: Path) -> Path:
    """Three shards, one large enough for a resumable upload, and hidden and linked files, which are not sent."""
    folder = tmp_path / "tfrecords"
    (folder / "sub").mkdir(parents=True)
    rng = np.random.default_rng(0)
    (folder / "train-0").write_bytes(rng.bytes(9 << 20))
    (folder / "val-0").write_bytes(rng.bytes(1000))
    (folder / "sub" / "empty").write_bytes(b"")
    (folder / ".hidden").write_bytes(b"secret")
    (folder / "link").symlink_to(folder / "val-0")
    (folder / ".git").mkdir()
    (folder / ".git" / "config").write_bytes(b"secret")
    return folder
