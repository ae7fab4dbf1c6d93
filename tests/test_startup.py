"""TensorFlow's log lines are dropped from the error stream; everything else passes, even when the process aborts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

# A stand-in for TensorFlow. Importing it writes these lines to descriptor 2, like its C++ code.
_TENSORFLOW = r"""
import os
os.write(2, b"I0000 00:00:1 2 port.cc:1] a note\nW0000 00:00:1 2 x.cc:1] a warning\n\t [[{{node Some}}]]\n")
os.write(2, b"E0000 00:00:1 2 cuda_platform.cc:52] failed call to cuInit: no GPU\n")
os.write(2, b"E0000 00:00:1 2 x.cc:1] a real error\n")
"""
_PROGRAM = """
import os, sys
from panoptic_cli import startup
if "own" in sys.argv:
    startup.own_stderr()
startup.import_tensorflow()
startup.import_tensorflow()
print("from python", file=sys.stderr)
os.write(2, b"F0000 00:00:1 2 x.cc:1] Check failed\\n")
os.abort() if "abort" in sys.argv else None
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """An environment in which `import tensorflow` finds the stand-in."""
    (tmp_path / "tensorflow.py").write_text(_TENSORFLOW)
    return {**os.environ, "PYTHONPATH": str(tmp_path), "PANOPTIC_DEBUG": ""}


def _run(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", _PROGRAM, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)


def _messages(process: subprocess.CompletedProcess[str]) -> list[str]:
    return sorted(line.split("] ")[-1] for line in process.stderr.splitlines())


def test_a_program_drops_log_lines_and_keeps_the_rest(environment: dict[str, str]) -> None:
    process = _run(environment, "own")
    assert process.returncode == 0
    assert _messages(process) == ["Check failed", "a real error", "from python"]
    assert process.stdout == ""


def test_the_last_message_before_an_abort_passes(environment: dict[str, str]) -> None:
    process = _run(environment, "own", "abort")
    assert process.returncode != 0
    assert "Check failed" in _messages(process)


def test_a_library_user_gets_every_line(environment: dict[str, str]) -> None:
    assert "a note" in _messages(_run(environment))


def test_debugging_keeps_every_line(environment: dict[str, str]) -> None:
    assert "a note" in _messages(_run(environment | {"PANOPTIC_DEBUG": "1"}, "own"))
