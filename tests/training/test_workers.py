"""Two MultiWorkerMirrored processes on this machine."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fakes import read_losses, read_metrics

_SCRIPT = Path(__file__).parent / "two_workers.py"

pytestmark = pytest.mark.slow


def free_ports() -> int:
    """Returns a port that is free and whose next port is free too."""
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
    """A started process. Its output goes to files, so that it never waits for a reader."""

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

    def ends(self, code: int, seconds: float = 240) -> dict[str, Any]:
        """Waits for the exit code; returns the printed result."""
        try:
            assert self.process.wait(seconds) == code, self.stderr.read_text()[-3000:]
        finally:
            self.process.kill()
        result: dict[str, Any] = json.loads(self.stdout.read_text() or "{}")
        return result


def pair(
    folder: Path, run: Path, steps: int, pause: float, *records: str, network: tuple[str, ...] = ()
) -> list[Worker]:
    port = free_ports()
    arguments = (str(run), str(steps), str(pause), *records)
    return [Worker(folder, index, port, *arguments, network=network) for index in (0, 1)]


def wait_until(condition: Callable[[], bool], workers: list[Worker]) -> None:
    deadline = time.monotonic() + 240
    while not condition():
        assert time.monotonic() < deadline
        assert all(worker.process.poll() is None for worker in workers), workers[0].stderr.read_text()[-3000:]
        time.sleep(0.05)


def await_checkpoint(run: Path, workers: list[Worker]) -> None:
    wait_until((run / "checkpoints" / "checkpoint").exists, workers)


def steps_done(run: Path) -> int:
    path = run / "metrics.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


def test_workers_accumulate_as_one_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCHES_PER_STEP", "3")
    first, second = pair(tmp_path, tmp_path / "run", 4, 0)
    assert first.ends(0)["losses"] == second.ends(0)["losses"]
    Worker(tmp_path, -1, 0, str(tmp_path / "alone"), "4", "0").ends(0)
    ours, alone = read_losses(tmp_path / "run"), read_losses(tmp_path / "alone")
    # float32 numbers are added in another order
    assert [loss for _, loss in ours] == pytest.approx([loss for _, loss in alone], rel=1e-4)


def test_a_killed_worker_stops_the_others_and_the_same_commands_go_on(tmp_path: Path) -> None:
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
    ours, alone = read_losses(run), read_losses(tmp_path / "alone")
    assert [step for step, _ in ours] == list(range(1, kept + 7))
    assert [loss for _, loss in ours] == pytest.approx([loss for _, loss in alone], rel=1e-4)


def test_sigterm_at_one_worker_stops_both_at_one_step(tmp_path: Path) -> None:
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


def test_a_second_ctrl_c_at_one_worker_ends_it_at_once_and_the_other_with_an_error(tmp_path: Path) -> None:
    run = tmp_path / "run"
    workers = pair(tmp_path, run, 300, 1.0)
    # The workers ask each other at steps 5, 10, ...: both signals arrive before the next of these.
    wait_until(lambda: steps_done(run) % 5 == 1, workers)
    workers[1].process.send_signal(signal.SIGINT)
    wait_until(lambda: "Press Ctrl-C again" in workers[1].stderr.read_text(), workers)
    workers[1].process.send_signal(signal.SIGINT)
    workers[1].ends(130, seconds=30)
    told = workers[1].stderr.read_text()
    assert "Run the same command again to resume." in told
    assert told.splitlines()[-1] == "warning: interrupted"
    workers[0].ends(1, seconds=90)
    assert "error: Another worker of the cluster" in workers[0].stderr.read_text()


def test_a_second_ctrl_c_ends_a_worker_that_waits_for_another(tmp_path: Path) -> None:
    run = tmp_path / "run"
    workers = pair(tmp_path, run, 300, 0.2)
    try:
        await_checkpoint(run, workers)
        workers[1].process.send_signal(signal.SIGSTOP)  # it does not answer any more, but its connections stay open
        time.sleep(2)
        for _ in range(2):
            workers[0].process.send_signal(signal.SIGINT)
            time.sleep(1)
        workers[0].ends(130, seconds=15)
        assert workers[0].stderr.read_text().splitlines()[-1] == "warning: interrupted"
    finally:
        workers[1].process.kill()


_TINY_EOMT = (
    "task.model.eomt.image_size=64",
    "task.model.eomt.num_hidden_layers=2",
    "task.model.eomt.num_blocks=1",
    "task.model.eomt.hidden_size=64",
)


@pytest.mark.parametrize(("family", "losses"), [("panoptic_fpn", 8), ("eomt", 4)])
def test_the_panoptic_network_sees_whole_batches(
    tmp_path: Path, shapes_records: Path, tiny_network: tuple[str, ...], family: str, losses: int
) -> None:
    records = f"{shapes_records}/train-*"
    network = (f"{family}_shapes", *(_TINY_EOMT if family == "eomt" else tiny_network))
    workers = pair(tmp_path, tmp_path / "run", 2, 0, records, network=network)
    ended = [worker.ends(0, 400) for worker in workers]
    Worker(tmp_path, -1, 0, str(tmp_path / "alone"), "2", "0", records, network=network).ends(0, 400)
    assert ended[0]["losses"] == ended[1]["losses"]
    one, whole = (read_metrics(tmp_path / run)[0] for run in ("run", "alone"))
    names = {name for name in whole if name.endswith("_loss")}
    assert len(names) >= losses
    for name in names:
        assert one[name] == pytest.approx(whole[name], rel=1e-4), name  # float32, added in another order
