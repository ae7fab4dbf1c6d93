"""A conversion that is ended, however, leaves whole shards, and the next one does the rest."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from record_differences import differing_files

from panoptic_cli.demo import shapes
from panoptic_cli.inspection.record_files import inspect_records

pytestmark = pytest.mark.slow


def _children(pid: int) -> list[int]:
    below: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            below += [int(child), *_children(int(child))]
    return below


def _last_child(process: subprocess.Popen[bytes]) -> int:
    return max(_children(process.pid))  # the workers are started last


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 pictures."""
    data = tmp_path_factory.mktemp("many") / "data"
    shapes.generate(data, train=300, val=1)
    return data


def _command(data: Path, target: Path) -> list[str]:
    folders = ["--data-dir", str(data), "--output-dir", str(target)]
    options = ["--split", "train", "--train-shards", "30", "--workers", "2", "--json"]
    return [sys.executable, "-m", "panoptic_cli", "make-tfrecords", *folders, *options]


@pytest.fixture(scope="module")
def uninterrupted(many: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The records of `many`, made without an end."""
    target = tmp_path_factory.mktemp("uninterrupted") / "records"
    subprocess.run(_command(many, target), check=True, capture_output=True)
    return target


# Ctrl-C reaches the whole group; a service manager ends the first process; the system kills one that takes memory.
ENDS: dict[str, tuple[Callable[[subprocess.Popen[bytes]], None], int]] = {
    "Ctrl-C": (lambda process: os.killpg(process.pid, signal.SIGINT), 130),
    "SIGTERM": (lambda process: process.send_signal(signal.SIGTERM), 130),
    "a worker killed": (lambda process: os.kill(_last_child(process), signal.SIGKILL), 1),
}


@pytest.mark.parametrize("end", ENDS)
def test_an_end_leaves_whole_shards_and_the_next_run_does_the_rest(
    many: Path, uninterrupted: Path, tmp_path: Path, end: str
) -> None:
    target = tmp_path / "records"
    command = _command(many, target)
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 60
    while len(list(target.glob("train-*"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    send, code = ENDS[end]
    send(process)
    assert process.wait(30) == code
    assert not list(target.glob(".*"))
    paths = sorted(target.glob("train-*"))
    assert 3 <= len(paths) < 30
    assert inspect_records(paths, workers=1).findings.to_list() == []
    kept = {path.name: path.stat().st_mtime_ns for path in paths}
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    summary = json.loads(done.stdout)["splits"][0]
    assert summary["pictures"] == 300
    assert summary["kept_shards"] >= len(kept) - 2  # one a worker may be renamed but not yet in the manifest
    assert len(list(target.glob("train-*"))) == 30
    assert differing_files(target, uninterrupted, "train-*") == []
