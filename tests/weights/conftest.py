"""Published checkpoints in an emulated Cloud Storage, and empty caches."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from cloud_emulator import emulator
from fault_proxy import fault_proxy
from garden import BUCKET, Garden

from panoptic_cli.transfer import objects
from panoptic_cli.weights.published import published_checkpoints


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
