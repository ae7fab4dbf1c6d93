"""Two logical CPU devices under MirroredStrategy give exactly the figures of one, in each precision."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("devices.py")
pytestmark = pytest.mark.slow


# Twelve pictures: one batch of 4 + 4 and one whose second replica has none; then 5 + 5 and a last one of 2.
@pytest.mark.parametrize(("batch_size", "precision"), [(4, "float32"), (5, "bfloat16")])
def test_two_devices_are_one(
    shapes_records: Path, tiny_network: tuple[str, ...], tmp_path: Path, batch_size: int, precision: str
) -> None:
    running = []
    for replicas in ("1", "2"):
        command = [sys.executable, str(SCRIPT), replicas, str(batch_size), precision, f"{shapes_records}/train-*"]
        command += [str(tmp_path / f"{replicas}.json"), *tiny_network]
        running.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    for process in running:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors[-3000:]
    one, two = (json.loads((tmp_path / f"{replicas}.json").read_text()) for replicas in ("1", "2"))
    assert one == two
    assert one["images"] == 12
    # An untrained network finds nothing right, so what it says is compared as well: every picture once, in order.
    first, second = tmp_path / "1", tmp_path / "2"
    names = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert len(names) == 12 + 2
    assert sum(len(a["segments_info"]) for a in json.loads((first / "pred.json").read_text())["annotations"]) > 24
    for name in names:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name
