"""Downloads through an aria2c daemon of our own.

The daemon listens on a random loopback port with a random secret and ends with us in every case: normal end,
error and Ctrl-C (SIGTERM too, see `interrupts`) through the context manager, kill -9 through --stop-with-process.

Importing aria2p takes a second: import this module where a download really starts.
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
from panoptic_cli.errors import TransferError, summarize
from panoptic_cli.transfer.aria2c import control_path, part_path, require_aria2c

_POLL = 0.2  # seconds between progress readings
_START_TIMEOUT = 15.0
_KEYS = ["status", "completedLength", "errorCode", "errorMessage"]

# aria2c(1), EXIT STATUS: what the user can do about it.
_HINTS = {
    "2": "The server does not answer: run the same command again to resume, or give a mirror (--base-url).",
    "3": "The server does not have it: check --base-url and the manifest.",
    "6": "Check the network, then run the same command again to resume.",
    "9": "The disk is full: free space, then run the same command again to resume.",
    "15": "Check that the data folder can be written to.",
    "16": "Check that the data folder can be written to.",
    "17": "The disk failed: check it, then run the same command again to resume.",
    "19": "The server's name is not known: check --base-url and the network.",
    "22": "The server refused: check --base-url, or try again later.",
    "24": "The server wants a password: check --base-url.",
    "29": "The server is overloaded: run the same command again later to resume.",
}
Report = Callable[[Mapping[str, int]], None]

_RETRY_HINT = "Run the same command again to resume, or give a mirror with --base-url."


@dataclass(frozen=True)
class Fetch:
    """One file to download.

    Attributes:
        url: where from.
        path: where to. Until it is complete it is `<path>.part`, with aria2's state in `<path>.part.aria2`.
    """

    url: str
    path: Path


class _LoopbackClient(aria2p.Client):
    """aria2p's client without the environment's proxies, which do not know our loopback port."""

    def post(self, payload: str) -> dict:
        with requests.Session() as session:
            session.trust_env = False
            answer: dict = session.post(self.server, data=payload, timeout=self.timeout).json()
            return answer


@contextlib.contextmanager
def daemon(connections: int = 8) -> Iterator[aria2p.Client]:
    """Runs an aria2c daemon for the length of the block.

    Args:
        connections: connections to use for each file, 1..16.

    Yields:
        A client that talks to it.

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
    """Downloads files, all at once, taking up what an earlier call left unfinished.

    Args:
        client: of a running `daemon`.
        files: what to fetch; the folders exist.
        report: called a few times a second with the bytes of each file, by name, that are on the disk.

    Raises:
        TransferError: names each file that failed after aria2's retries; the others are complete.
    """
    try:
        _fetch(client, files, report or (lambda done: None))
    except (requests.RequestException, aria2p.ClientException) as error:
        message = str(error) if isinstance(error, aria2p.ClientException) else "it does not answer any more"
        raise TransferError(f"aria2c failed: {message}.", _RETRY_HINT) from error


def _fetch(client: aria2p.Client, files: Sequence[Fetch], report: Report) -> None:
    pending = {}
    for item in files:
        partial = part_path(item.path)
        if not control_path(item.path).exists():
            # Pieces without the note that says which they are (a kill -9 in the first seconds).
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
        problems = [f"{item.url}: {text.rstrip('. ') or f'aria2 error {code}'}." for item, code, text in failures]
        message = f"{len(failures)} of {len(files)} archives were not fetched: {summarize(problems)}"
        raise TransferError(message, _HINTS.get(failures[0][1], _RETRY_HINT))


def _start(program: str, connections: int, folder: Path) -> tuple[subprocess.Popen, aria2p.Client]:
    for _ in range(3):  # somebody else may take the port between our look and aria2's bind
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
            "always-resume": "false",  # a server without ranges starts the file again instead of failing
            "max-resume-failure-tries": 1,
            "allow-overwrite": "true",
            "auto-file-renaming": "false",
            "auto-save-interval": 1,  # even a kill -9 of aria2c itself loses a second only
            "file-allocation": "none",
            "max-tries": 6,
            "retry-wait": 2,
            "connect-timeout": 20,
            "timeout": 60,
            "lowest-speed-limit": 0,
        }
        # A file only we can read: on the command line everybody on the machine would see the secret.
        config = folder / f"{port}.conf"
        config.touch(mode=0o600)
        config.write_text("".join(f"{key}={value}\n" for key, value in settings.items()))
        process = subprocess.Popen(
            [program, f"--conf-path={config}", "--quiet=true"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C reaches us alone; we then end it in order
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
    raise TransferError(f"{program} does not start as a daemon.", f"Try it by hand: {program} --version")


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
    # Each way writes the note of finished pieces first, so that the next run resumes. The signal takes effect
    # within a second, aria2.forceShutdown after four; Windows has no such signal.
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
