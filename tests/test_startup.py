"""The filter on the error stream: notes go, everything else comes out, also when the process aborts."""

from __future__ import annotations

import subprocess
import sys

_PROGRAM = """
import os, sys
from panoptic_cli import startup
startup.own_stderr()
startup._filter_descriptor()
os.write(2, b"I0000 00:00:1 2 port.cc:1] a note\\nW0000 00:00:1 2 x.cc:1] a warning\\n\\t [[{{node Some}}]]\\n")
os.write(2, b"E0000 00:00:1 2 cuda_platform.cc:52] failed call to cuInit: no GPU\\n")
os.write(2, b"E0000 00:00:1 2 x.cc:1] a real error\\n")
print("from python", file=sys.stderr)
os.write(2, b"F0000 00:00:1 2 x.cc:1] Check failed\\n")
os.abort() if sys.argv[1] == "abort" else None
"""


def _run(end: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", _PROGRAM, end], capture_output=True, text=True, timeout=60, check=False
    )


def test_notes_are_dropped_and_the_rest_is_kept() -> None:
    process = _run("return")
    assert process.returncode == 0
    kept = sorted(line.split("] ")[-1] for line in process.stderr.splitlines())
    assert kept == ["Check failed", "a real error", "from python"]
    assert process.stdout == ""


def test_what_is_said_before_an_abort_comes_out() -> None:
    process = _run("abort")
    assert process.returncode != 0
    assert "Check failed" in process.stderr


def test_debugging_switches_the_filter_off() -> None:
    program = "from panoptic_cli import startup; startup.own_stderr(); print(startup._state['owns_stderr'])"
    environment = {"PANOPTIC_DEBUG": "1", "PATH": ""}
    process = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True
    )
    assert process.stdout.strip() == "False"
