"""Import TensorFlow: find out which build is installed, and keep its log lines from between ours."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from importlib import metadata

from panoptic_cli import gpus
from panoptic_cli.errors import DeviceError

TENSORFLOW_PACKAGES = ("tensorflow", "tensorflow-cpu", "tensorflow-tpu", "tf-nightly", "tf-nightly-tpu")
# tensorflow-tpu 2.20.0 was built for the first; with later ones than the last, importing it aborts the process.
LIBTPU_VERSIONS = ("0.0.14", "0.0.30")

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

    Raises:
        DeviceError: TensorFlow is not installed, or would abort.
    """
    require_tensorflow()
    if _state["owns_stderr"]:
        _state["owns_stderr"] = False
        _filter_descriptor()
    import tensorflow  # noqa: F401


def require_tensorflow() -> None:
    """Checks that TensorFlow can be imported, without importing it.

    Raises:
        DeviceError: it is not installed, or its installation is broken.
    """
    if "tensorflow" in sys.modules:
        return
    if importlib.util.find_spec("tensorflow") is None:
        extra = "gpu" if any(card.driver for card in gpus.find_cards()) else "cpu"
        others = {"gpu": "[cpu] is enough without NVIDIA GPUs", "cpu": "[gpu] is for NVIDIA GPUs"}[extra]
        raise DeviceError(
            "TensorFlow is not installed.",
            f"Run: pip install 'panoptic-cli[{extra}]' ({others}, and [tpu] for TPU VMs).",
        )
    problem = installation_problem()
    if problem is not None:
        raise DeviceError(*problem)


def tensorflow_packages() -> dict[str, str]:
    """Returns the installed distributions of TensorFlow, and libtpu, with their versions."""
    found = {}
    for name in (*TENSORFLOW_PACKAGES, "libtpu"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def installation_problem() -> tuple[str, str] | None:
    """Returns what is wrong with the installed distributions of TensorFlow, and what to do; None: nothing."""
    found = tensorflow_packages()
    libtpu = found.pop("libtpu", None)
    if len(found) > 1:  # each overwrites the files of the other
        names = " and ".join(found)
        return (
            f"{names} are both installed and overwrite each other's files.",
            f"Run: pip uninstall -y {' '.join(found)}; then install panoptic-cli with one of its extras.",
        )
    first, last = LIBTPU_VERSIONS
    if "tensorflow-tpu" in found and libtpu is not None and not _numbers(first) <= _numbers(libtpu) <= _numbers(last):
        return (
            f"libtpu {libtpu} does not fit tensorflow-tpu {found['tensorflow-tpu']}: importing it would abort.",
            f"Run: pip install 'libtpu>={first},<={last}'",
        )
    return None


def _numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".") if part.isdigit()]


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
