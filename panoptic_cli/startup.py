"""Import TensorFlow: check its installation, choose its allocator, and keep its log lines from between ours."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import platform
import subprocess
import sys
from importlib import metadata

from panoptic_cli import gpus
from panoptic_cli.errors import DeviceError

TENSORFLOW_PACKAGES = ("tensorflow", "tensorflow-cpu", "tensorflow-tpu", "tf-nightly", "tf-nightly-tpu")
# tensorflow-tpu 2.20.0 was built for the first; with later ones than the last, importing it aborts the process.
LIBTPU_VERSIONS = ("0.0.14", "0.0.30")

# TensorFlow's C++ log lines at levels info and warning (2.21 begins them with the level, 2.20 with the time), their
# continuation lines, the CUDA error that appears on every machine without a GPU, and that of oneDNN on CPUs without
# AVX-512 for half precision, which other kernels then compute.
_NOISE = (
    rb"^(?:[IW]0000 |\d{4}-\d\d-\d\d [\d:.]+: [IW] |(?:E0000|\d{4}-\d\d-\d\d [\d:.]+: E) "
    rb".*(?:cuInit|Unable to register cu|oneDNN supports DT_)|WARNING: All log messages before absl|"
    rb"\t \[\[\{\{node |To enable the following instructions: |"
    rb" *type_id: TFT_| *args \{$| *\}$| for input \d+ of a homogeneous container|\twhile inferring type of node )"
)
# mallopt(3): never give back the end of the heap; no separate mappings, which are given back; one heap, because others
# hold 64 MB at most; grow by 16 MB.
_MALLOC_OPTIONS = ((-1, -1), (-4, 0), (-8, 1), (-2, 16 << 20))
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

_state = {"owns_process": False}


def own_process() -> None:
    """Allows `import_tensorflow` to set up the whole process. For programs, not for libraries."""
    _state["owns_process"] = True


def import_tensorflow(onednn: bool = False) -> None:
    """Imports TensorFlow. After `own_process`, its log lines are filtered, and on a CPU it keeps freed memory.

    TensorFlow 2.21 writes log lines to file descriptor 2, in the middle of progress bars, and ignores
    TF_CPP_MIN_LOG_LEVEL. So the descriptor is redirected to a small process that drops them. It is a process rather
    than a thread so that TensorFlow's last words still get out when it aborts. Python's sys.stderr is not filtered.
    PANOPTIC_DEBUG=1 keeps the stream as it is.

    Args:
        onednn: after `own_process`, use oneDNN's kernels on any x86 CPU. TensorFlow uses them by itself only on those
            with AVX-512. TF_ENABLE_ONEDNN_OPTS in the environment takes precedence.

    Raises:
        DeviceError: TensorFlow is not installed, or would abort.
    """
    require_tensorflow()
    if _state["owns_process"]:
        _state["owns_process"] = False
        _keep_freed_memory()
        if onednn and platform.machine() in ("x86_64", "AMD64"):
            os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
        if not os.environ.get("PANOPTIC_DEBUG"):
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
    numbers = gpus.version_numbers
    if "tensorflow-tpu" in found and libtpu is not None and not numbers(first) <= numbers(libtpu) <= numbers(last):
        return (
            f"libtpu {libtpu} does not fit tensorflow-tpu {found['tensorflow-tpu']}: importing it would abort.",
            f"Run: pip install 'libtpu>={first},<={last}'",
        )
    return None


def _keep_freed_memory() -> None:
    """Makes the process keep the memory of freed tensors on a CPU, instead of returning it to the system each time.

    Getting the pages back costs 40 percent of a training step on a virtual machine. With GPUs, the host's tensors are
    small. Settings of malloc in the environment, or another malloc, take precedence.
    """
    chosen = any(name.startswith("MALLOC_") or name in ("GLIBC_TUNABLES", "LD_PRELOAD") for name in os.environ)
    if sys.platform != "linux" or gpus.driver_is_loaded() or chosen:
        return
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)  # of the GNU C library
    if set_option is not None:
        for option, value in _MALLOC_OPTIONS:
            set_option(option, value)


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
