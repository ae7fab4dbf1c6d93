"""The NVIDIA GPUs of this machine, and why TensorFlow cannot use them. TensorFlow itself is not imported.

TensorFlow only logs why it lists no GPU, and trains on the CPU. So the driver is asked, through nvidia-smi, and the
libraries are looked for where TensorFlow looks: in the packages of its extra `and-cuda` and on the loader's path.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from panoptic_cli.errors import listed

INSTALL_GPU = "pip install 'panoptic-cli[gpu]'"

_DRIVER_DEVICES = (Path("/dev/nvidiactl"), Path("/dev/dxg"))
_PCI_DEVICES = Path("/sys/bus/pci/devices")
_NVIDIA, _DISPLAY_CONTROLLER = "0x10de", "0x03"
_TIMEOUT = 20.0  # seconds; the driver of a machine with eight GPUs takes some to start
_QUERY = ("--query-gpu=name,driver_version,memory.total", "--format=csv,noheader,nounits")

# By the major version of CUDA: what TensorFlow opens before it lists a GPU, and the oldest driver that runs it
# (CUDA release notes, "CUDA Toolkit and minimum required driver versions": minor version compatibility, Linux).
_LIBRARIES = {
    "12": ("cudart.so.12", "cublas.so.12", "cublasLt.so.12", "cufft.so.11", "cusolver.so.11", "cusparse.so.12"),
    "13": ("cudart.so.13", "cublas.so.13", "cublasLt.so.13", "cufft.so.12", "cusolver.so.12", "cusparse.so.12"),
}
_OLDEST_DRIVERS = {"12": "525.60", "13": "580"}


@dataclass(frozen=True)
class Card:
    """An NVIDIA GPU.

    Attributes:
        name: the product's name.
        driver: version of the driver; None: no driver answers.
        memory_bytes: its memory; None if unknown.
    """

    name: str
    driver: str | None = None
    memory_bytes: int | None = None


@dataclass(frozen=True)
class Build:
    """What a TensorFlow was built for, as `tf.sysconfig.get_build_info` says.

    Attributes:
        version: of TensorFlow.
        cuda: version of CUDA; None: built without CUDA.
        cudnn: version of cuDNN; None: built without it.
    """

    version: str
    cuda: str | None = None
    cudnn: str | None = None


def driver_is_loaded() -> bool:
    """Whether a driver for NVIDIA GPUs is loaded, on Linux or in WSL 2. Unlike `find_cards`, it starts no program."""
    return any(device.exists() for device in _DRIVER_DEVICES)


def find_cards() -> list[Card]:
    """Lists the NVIDIA GPUs that this process may use, or those on the PCI bus if no driver answers."""
    return _answering_cards() or [Card("NVIDIA GPU") for _ in range(_cards_on_the_bus())]


def count_and_names(cards: list[Card]) -> str:
    """Returns "2 GPUs (NVIDIA L4)" for a sentence."""
    names = ", ".join(dict.fromkeys(card.name for card in cards))
    return f"{len(cards)} GPU{'s' if len(cards) != 1 else ''} ({names})"


def hidden() -> bool:
    """Whether CUDA_VISIBLE_DEVICES hides every GPU."""
    value = os.environ.get("CUDA_VISIBLE_DEVICES")
    return value is not None and value.split(",")[0].strip() in ("", "-1", "none", "NoDevFiles")


def why_unusable(build: Build, cards: list[Card]) -> tuple[str, str]:
    """Explains why TensorFlow lists no GPU.

    Args:
        build: the TensorFlow.
        cards: the machine's GPUs.

    Returns:
        The reason, and what to do.
    """
    if hidden():
        value = os.environ["CUDA_VISIBLE_DEVICES"]
        return f"CUDA_VISIBLE_DEVICES={value or '(empty)'} hides all GPUs", "Unset it."
    if not cards:
        return "this machine has no NVIDIA GPU", "Omit --gpus to use the CPU."
    if sys.platform == "win32":
        return "TensorFlow uses no GPUs on Windows", "Use WSL 2."
    if build.cuda is None:
        return f"this TensorFlow {build.version} is built without CUDA", f"Run: {INSTALL_GPU}"
    drivers = [card.driver for card in cards if card.driver is not None]
    if not drivers:
        return "no NVIDIA driver answers", "Install the driver, or start the container with access to the GPUs."
    major = build.cuda.partition(".")[0]
    oldest = _OLDEST_DRIVERS.get(major)
    if oldest is not None and version_numbers(drivers[0]) < version_numbers(oldest):
        return f"the driver {drivers[0]} is too old for CUDA {build.cuda}", f"Install the driver {oldest} or newer."
    missing = missing_libraries(build)
    if missing:
        needs = f"TensorFlow {build.version} needs CUDA {build.cuda} and cuDNN {build.cudnn}"
        return f"{needs}, and does not find {listed(missing, 2)}", f"Run: {INSTALL_GPU}"
    return "TensorFlow does not say why", "PANOPTIC_DEBUG=1 shows its messages."


def missing_libraries(build: Build) -> list[str]:
    """Returns the file names of the CUDA libraries that TensorFlow opens and the loader does not find."""
    if build.cuda is None or sys.platform != "linux":
        return []
    names = [f"lib{name}" for name in _LIBRARIES.get(build.cuda.partition(".")[0], ())]
    if build.cudnn is not None:
        names.append(f"libcudnn.so.{build.cudnn.partition('.')[0]}")
    return [name for name in names if not _found(name)]


def _found(name: str) -> bool:
    spec = importlib.util.find_spec("nvidia")  # the namespace of NVIDIA's packages; TensorFlow's run path points there
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    if any(file.is_file() for folder in folders for file in Path(folder).glob(f"*/lib/{name}")):
        return True
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True


def _answering_cards() -> list[Card]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    try:
        done = subprocess.run([program, *_QUERY], capture_output=True, text=True, timeout=_TIMEOUT)
    except (OSError, subprocess.TimeoutExpired):
        return []
    rows = [[cell.strip() for cell in line.split(",")] for line in done.stdout.splitlines()]
    cards = [row for row in rows if len(row) == 3]  # other lines are messages
    if done.returncode != 0:
        return []
    return [Card(n, driver, int(mb) * 2**20 if mb.isdigit() else None) for n, driver, mb in cards]


def _cards_on_the_bus() -> int:
    count = 0
    for device in _PCI_DEVICES.glob("*"):
        try:
            vendor, kind = (device / "vendor").read_text().strip(), (device / "class").read_text().strip()
        except OSError:
            continue
        count += vendor == _NVIDIA and kind.startswith(_DISPLAY_CONTROLLER)
    return count


def version_numbers(version: str) -> tuple[int, ...]:
    """Returns (1, 2, 3) for "1.2.3", to compare versions; parts that are not numbers are left out."""
    return tuple(int(part) for part in version.split(".") if part.isdigit())
