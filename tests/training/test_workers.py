"""Two MultiWorkerMirrored processes on this machine."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fakes import read_metrics

_SCRIPT = Path(__file__).parent / "two_workers.py"

pytestmark = pytest.mark.slow


def free_ports() -> int:
    """A port that is free, as its neighbour is."""
    while True:
        with socket.socket() as one, socket.socket() as other:
            one.bind(("127.0.0.1", 0))
            port = one.getsockname()[1]
            try:
                other.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return port


class Worker:
    """A started process; its output goes to files, so that it never waits for a reader."""

    def __init__(self, folder: Path, index: int, port: int, *arguments: str, network: tuple[str, ...] = ()) -> None:
        self.stderr = folder / f"stderr{index}"
        self.stdout = folder / f"stdout{index}"
        environment = {k: v for k, v in os.environ.items() if k != "TF_CONFIG"}
        with self.stdout.open("w") as out, self.stderr.open("w") as err:
            self.process = subprocess.Popen(
                [sys.executable, str(_SCRIPT), str(index), str(port), *arguments],
                stdout=out,
                stderr=err,
                env={**environment, "TINY_NETWORK": json.dumps(network)},
            )

    def ends(self, code: int, seconds: float = 240) -> dict:
        """Waits for the exit code; returns the result that was printed."""
        try:
            assert self.process.wait(seconds) == code, self.stderr.read_text()[-3000:]
        finally:
            self.process.kill()
        return json.loads(self.stdout.read_text() or "{}")


def pair(folder: Path, run: Path, steps: int, pause: float, *records: str, network: tuple[str, ...] = ()) -> list:
    port = free_ports()
    arguments = (str(run), str(steps), str(pause), *records)
    return [Worker(folder, index, port, *arguments, network=network) for index in (0, 1)]


def await_checkpoint(run: Path, workers: list) -> None:
    deadline = time.monotonic() + 240
    while not (run / "checkpoints" / "checkpoint").exists() and time.monotonic() < deadline:
        assert all(worker.process.poll() is None for worker in workers), workers[0].stderr.read_text()[-3000:]
        time.sleep(0.1)


def losses(run: Path) -> list:
    return [(line["step"], line["total_loss"]) for line in read_metrics(run)]


def test_a_killed_worker_stops_the_others_and_the_same_commands_go_on(tmp_path):
    run = tmp_path / "run"
    workers = pair(tmp_path, run, 300, 0.2)
    await_checkpoint(run, workers)
    workers[0].process.kill()  # the chief: without it TensorFlow itself would wait for ever
    workers[0].ends(-signal.SIGKILL)
    workers[1].ends(1, seconds=90)
    told = workers[1].stderr.read_text().splitlines()
    (line,) = [line for line in told if "error: Another worker of the cluster" in line]
    assert "same command again on every worker" in line

    state = (run / "checkpoints" / "checkpoint").read_text()
    kept = int(state.split('"')[1].removeprefix("ckpt-"))
    first, second = pair(tmp_path, run, kept + 6, 0)
    ended = first.ends(0)
    assert (ended["status"], ended["start_step"], ended["step"]) == ("finished", kept, kept + 6)
    assert second.ends(0)["losses"] == ended["losses"]

    # One process with whole batches, all the way: the same up to the order in which float32 numbers are added.
    Worker(tmp_path, -1, 0, str(tmp_path / "alone"), str(kept + 6), "0").ends(0)
    ours, alone = losses(run), losses(tmp_path / "alone")
    assert [step for step, _ in ours] == list(range(1, kept + 7))
    assert [loss for _, loss in ours] == pytest.approx([loss for _, loss in alone], rel=1e-4)


def test_sigterm_at_one_worker_stops_both_at_one_step(tmp_path):
    run = tmp_path / "run"
    workers = pair(tmp_path, run, 300, 0.2)
    await_checkpoint(run, workers)
    workers[1].process.send_signal(signal.SIGTERM)
    ended = [worker.ends(143) for worker in workers]
    assert ended[0]["status"] == ended[1]["status"] == "preempted"
    assert 0 < ended[0]["step"] == ended[1]["step"] < 300
    assert ended[0]["checkpoint"].endswith(f"ckpt-{ended[0]['step']}")
    names = {path.name for path in run.iterdir()}
    assert names == {
        *("categories.json", "config.yaml", "environment.json", "records.json", "metrics.jsonl"),
        *("checkpoints", "logs"),
    }
    assert len(json.loads((run / "environment.json").read_text())) == 1  # the chief alone writes


def test_the_panoptic_network_sees_whole_batches(tmp_path, shapes_records, tiny_network):
    records = f"{shapes_records}/train-*"
    workers = pair(tmp_path, tmp_path / "run", 2, 0, records, network=tiny_network)
    ended = [worker.ends(0, 400) for worker in workers]
    Worker(tmp_path, -1, 0, str(tmp_path / "alone"), "2", "0", records, network=tiny_network).ends(0, 400)
    assert ended[0]["losses"] == ended[1]["losses"]
    one, whole = (read_metrics(tmp_path / run)[0] for run in ("run", "alone"))
    names = {name for name in whole if name.endswith("_loss")}
    assert len(names) >= 8
    for name in names:
        assert one[name] == pytest.approx(whole[name], rel=1e-4), name  # float32, added in another order
