"""Import TensorFlow without its log lines between ours."""

from __future__ import annotations

import os
import subprocess
import sys

# TensorFlow's C++ log lines at levels info and warning, their continuation lines, and the CUDA error that appears on
# every machine without a GPU.
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
    """Allows `import_tensorflow` to filter the process's error stream. For programs, not for libraries.

    PANOPTIC_DEBUG=1 keeps the stream unfiltered.
    """
    _state["owns_stderr"] = not os.environ.get("PANOPTIC_DEBUG")


def import_tensorflow() -> None:
    """Imports TensorFlow; after `own_stderr`, its informational log lines are filtered out.

    TensorFlow 2.21 writes log lines to file descriptor 2, in the middle of progress bars, and ignores
    TF_CPP_MIN_LOG_LEVEL. So the descriptor is redirected to a small process that drops them. It is a process rather
    than a thread so that TensorFlow's last words still get out when it aborts. Python's sys.stderr is not filtered.
    """
    if _state["owns_stderr"]:
        _state["owns_stderr"] = False
        _filter_descriptor()
    import tensorflow  # noqa: F401


def _filter_descriptor() -> None:
    try:
        original = os.dup(2)
    except OSError:  # the process has no error stream
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
