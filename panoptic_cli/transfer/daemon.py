"""Download files through our own aria2c daemon.

The daemon listens on a random loopback port with a random secret. It always ends with this process: the context
manager stops it on success, on errors and on Ctrl-C (also SIGTERM, see `interrupts`); --stop-with-process stops it
after kill -9.

Importing aria2p takes a second, so import this module only where a download starts.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import aria2p
import requests

from panoptic_cli import console
from panoptic_cli.errors import TransferError, one_line, summarize
from panoptic_cli.transfer.aria2c import control_path, part_path, require_aria2c

_POLL = 0.2  # seconds between progress readings
_START_TIMEOUT = 15.0
_KEYS = ["status", "completedLength", "errorCode", "errorMessage"]

# What the user can do about each exit status (see EXIT STATUS in aria2c(1)).
_HINTS = {
    "2": "The server does not answer. Run the same command again to resume, or give a mirror with --base-url.",
    "3": "The file is not on the server. Check --base-url and the manifest.",
    "6": "Check the network, then run the same command again to resume.",
    "9": "The disk is full. Free space, then run the same command again to resume.",
    "15": "Check that the data folder is writable.",
    "16": "Check that the data folder is writable.",
    "17": "The disk failed. Check it, then run the same command again to resume.",
    "19": "The server's name cannot be resolved. Check --base-url and the network.",
    "22": "The server refused the request. Check --base-url, or try again later.",
    "24": "The server asks for a password. Check --base-url.",
    "29": "The server is overloaded. Run the same command again later to resume.",
}
Report = Callable[[Mapping[str, int]], None]

_RETRY_HINT = "Run the same command again to resume, or give a mirror with --base-url."


@dataclass(frozen=True)
class Fetch:
    """One file to download.

    Attributes:
        url: the source.
        path: the target. Until it is complete, the file is `<path>.part`, with aria2's state in `<path>.part.aria2`.
    """

    url: str
    path: Path


class _LoopbackClient(aria2p.Client):
    """aria2p's client, which ignores the environment's proxies: they cannot reach our loopback port."""

    def post(self, payload: str) -> dict:
        with requests.Session() as session:
            session.trust_env = False
            answer: dict = session.post(self.server, data=payload, timeout=self.timeout).json()
            return answer


@contextlib.contextmanager
def daemon(connections: int = 8) -> Iterator[aria2p.Client]:
    """Runs an aria2c daemon during the block.

    Args:
        connections: connections for each file, 1..16.

    Yields:
        A client of the daemon.

    Raises:
        TransferError: aria2c is missing or does not start.
    """
    program = require_aria2c()
    with tempfile.TemporaryDirectory(prefix="panoptic-aria2-") as folder:
        process, client = _start(program, connections, Path(folder))
        try:
            yield client
        finally:
            _stop(process, client)


def fetch(client: aria2p.Client, files: Sequence[Fetch], report: Report | None = None) -> None:
    """Downloads files at the same time and resumes what an earlier call left unfinished.

    Args:
        client: client of a running `daemon`.
        files: what to fetch; the folders must exist.
        report: called a few times a second with each file's bytes on the disk, by file name.

    Raises:
        TransferError: lists each file that failed after aria2's retries; the others are complete.
    """
    try:
        _fetch(client, files, report or (lambda done: None))
    except (requests.RequestException, aria2p.ClientException) as error:
        message = str(error) if isinstance(error, aria2p.ClientException) else "it no longer answers"
        raise TransferError(f"aria2c failed: {message}.", _RETRY_HINT) from error


def _fetch(client: aria2p.Client, files: Sequence[Fetch], report: Report) -> None:
    pending = {}
    for item in files:
        partial = part_path(item.path)
        if not control_path(item.path).exists():
            # Pieces without aria2's list of them, left by a kill -9 in the first seconds.
            partial.unlink(missing_ok=True)
        options = {"dir": str(partial.parent.absolute()), "out": partial.name}
        pending[client.add_uri([item.url], options)] = item
    failures: list[tuple[Fetch, str, str]] = []
    done = {item.path.name: 0 for item in files}
    while True:
        for gid, item in list(pending.items()):
            status = client.tell_status(gid, _KEYS)
            done[item.path.name] = int(status["completedLength"])
            if status["status"] == "complete":
                del pending[gid]
                part_path(item.path).replace(item.path)
            elif status["status"] in ("error", "removed"):
                del pending[gid]
                failures.append((item, status.get("errorCode", "1"), status.get("errorMessage", "")))
        report(done)
        if not pending:
            break
        time.sleep(_POLL)
    if failures:
        problems = [f"{item.url}: {one_line(text or f'aria2 error {code}')}." for item, code, text in failures]
        message = f"{len(failures)} of {len(files)} archives could not be downloaded: {summarize(problems)}"
        raise TransferError(message, _HINTS.get(failures[0][1], _RETRY_HINT))


def _start(program: str, connections: int, folder: Path) -> tuple[subprocess.Popen, aria2p.Client]:
    for _ in range(3):  # another program may take the port between our probe and aria2's bind
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        secret = secrets.token_hex(24)
        settings = {
            "enable-rpc": "true",
            "rpc-listen-all": "false",
            "rpc-listen-port": port,
            "rpc-secret": secret,
            "stop-with-process": os.getpid(),
            "no-netrc": "true",
            "split": connections,
            "max-connection-per-server": connections,
            "min-split-size": "1M",
            "max-concurrent-downloads": 2,
            "continue": "true",
            "always-resume": "false",  # restarts the file instead of failing if the server does not support ranges
            "max-resume-failure-tries": 1,
            "allow-overwrite": "true",
            "auto-file-renaming": "false",
            "auto-save-interval": 1,  # even a kill -9 of aria2c itself loses only a second
            "file-allocation": "none",
            "max-tries": 6,
            "retry-wait": 2,
            "connect-timeout": 20,
            "timeout": 60,
            "lowest-speed-limit": 0,
        }
        # Only this user can read the file. On the command line every user of the machine would see the secret.
        config = folder / f"{port}.conf"
        config.touch(mode=0o600)
        config.write_text("".join(f"{key}={value}\n" for key, value in settings.items()))
        process = subprocess.Popen(
            [program, f"--conf-path={config}", "--quiet=true"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C reaches only us; we then stop the daemon cleanly
        )
        client = _LoopbackClient("http://127.0.0.1", port, secret, timeout=10)
        try:
            answers = _wait_until_it_answers(process, client)
        except BaseException:
            _stop(process, client)
            raise
        if answers:
            console.detail(f"aria2c runs on loopback port {port}")
            return process, client
        _stop(process, client)
    raise TransferError(f"{program} does not start as a daemon.", f"Try to run it yourself: {program} --version")


def _wait_until_it_answers(process: subprocess.Popen, client: aria2p.Client) -> bool:
    deadline = time.monotonic() + _START_TIMEOUT
    while time.monotonic() < deadline and process.poll() is None:
        try:
            client.get_version()
        except (requests.RequestException, aria2p.ClientException):
            time.sleep(0.05)
        else:
            return True
    return False


def _stop(process: subprocess.Popen, client: aria2p.Client) -> None:
    # Both ways save the list of finished pieces first, so that the next run resumes. The signal takes effect within a
    # second, aria2.forceShutdown after four. Windows has no such signal.
    if sys.platform == "win32":
        with contextlib.suppress(Exception):
            client.force_shutdown()
    else:
        process.terminate()
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    except BaseException:  # a second Ctrl-C
        process.kill()
        raise
