"""Importing TensorFlow without its notes between our lines."""

from __future__ import annotations

import os
import subprocess
import sys

# What TensorFlow's C++ logging writes at levels info and warning, the lines that belong to them, and the error about
# CUDA that every machine without a GPU gets.
_NOISE = (
    rb"^(?:[IW]0000 |E0000 .*(?:cuInit|Unable to register cu)|WARNING: All log messages before absl|"
    rb"\t \[\[\{\{node |To enable the following instructions: )"
)
_FILTER = f"""
import re, signal, sys
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
noise = re.compile({_NOISE!r})
for line in sys.stdin.buffer:
    if not noise.match(line):
        sys.stdout.buffer.write(line)
        sys.stdout.buffer.flush()
"""

_state = {"owns_stderr": False}


def own_stderr() -> None:
    """Lets `import_tensorflow` put a filter on the process's error stream; for programs, not for libraries."""
    _state["owns_stderr"] = not os.environ.get("PANOPTIC_DEBUG")


def import_tensorflow() -> None:
    """Imports TensorFlow; in a process that said `own_stderr` with its informational notes filtered out.

    TensorFlow 2.21 writes notes straight to file descriptor 2, in the middle of progress bars, and no longer heeds
    TF_CPP_MIN_LOG_LEVEL. The descriptor therefore leads through a small process that drops them. A process and not a
    thread, so that what TensorFlow says when it aborts still comes out. Python's own sys.stderr stays as it was.
    """
    if _state["owns_stderr"]:
        _state["owns_stderr"] = False
        _filter_descriptor()
    import tensorflow  # noqa: F401


def _filter_descriptor() -> None:
    try:
        original = os.dup(2)
    except OSError:  # there is no error stream
        return
    os.set_inheritable(original, True)
    command = [sys.executable, "-I", "-S", "-c", _FILTER]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=original)
    assert process.stdin is not None
    sys.stderr.flush()
    os.dup2(process.stdin.fileno(), 2)
    process.stdin.close()
    os.set_inheritable(original, False)
    sys.stderr = os.fdopen(original, "w", buffering=1, encoding=sys.stderr.encoding, errors="backslashreplace")
