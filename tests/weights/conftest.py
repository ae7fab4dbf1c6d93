"""Published checkpoints in an emulated Cloud Storage, and empty caches."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from cloud_emulator import emulator
from fault_proxy import FaultProxy, fault_proxy

from panoptic_cli.transfer import objects
from panoptic_cli.weights.published import Published, published_checkpoints

BUCKET = "tf_model_garden"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, which does not exist yet, and no network."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("PANOPTIC_CACHE", str(folder))
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:9")  # nothing listens there
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    monkeypatch.setattr(objects, "_PAUSES", (0.01, 0.1))
    monkeypatch.setattr(objects, "_PATIENCE", 0.5)
    return folder


class Garden(NamedTuple):
    """An emulated bucket with checkpoints.

    Attributes:
        published: the entry of the table; its source is a folder, as far as one knows.
        files: the content of its files by name.
        client: a client of the emulator, which does not pass the proxy.
        proxy: stands between our client and the emulator.
    """

    published: Published
    files: dict[str, bytes]
    client: Any
    proxy: FaultProxy

    def put(self, name: str, content: bytes) -> None:
        """Puts an object beside the checkpoint's."""
        _, _, path = self.published.source.removeprefix("gs://").partition("/")
        self.client.bucket(BUCKET).blob(f"{path}{name}").upload_from_string(content)

    def contents_asked_for(self) -> list[str]:
        """The Range headers of all requests for content."""
        return [r.headers.get("range", "") for r in self.proxy.seen if r.method == "GET" and "alt=media" in r.path]


@pytest.fixture
def garden(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Garden]:
    """The folder of panoptic_fpn_r50_1x: two checkpoints, a state file that names the first one, and other files."""
    from google.cloud import storage

    rng = np.random.default_rng(0)
    files = {
        "ckpt-22500.index": rng.bytes(900),
        "ckpt-22500.data-00000-of-00002": rng.bytes(3_000_000),
        "ckpt-22500.data-00001-of-00002": rng.bytes(1000),
    }
    with emulator(BUCKET) as url, fault_proxy(url) as proxy:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", url)
        client = storage.Client.create_anonymous_client()
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", proxy.url)
        found = Garden(published_checkpoints()["panoptic_fpn_r50_1x"], files, client, proxy)
        for name, content in files.items():
            found.put(f"/{name}", content)
        found.put("/ckpt-30000.index", b"later")
        found.put("/ckpt-30000.data-00000-of-00001", b"later")
        found.put(
            "/checkpoint", b'model_checkpoint_path: "/their/folder/ckpt-22500"\nall_model_checkpoint_paths: "x"\n'
        )
        found.put("/train/events.out", b"x")
        found.put("_other/ckpt-1.index", b"x")
        proxy.seen.clear()
        yield found
    assert "STORAGE_EMULATOR_HOST" in os.environ
