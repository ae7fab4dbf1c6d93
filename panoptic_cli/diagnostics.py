"""Facts about this machine that a bug report needs. Secrets are never read; only whether they are set."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from panoptic_cli import __version__, gpus, startup
from panoptic_cli.errors import DeviceError, one_line
from panoptic_cli.images.limits import machine_memory
from panoptic_cli.transfer.aria2c import find_aria2c
from panoptic_cli.transfer.sizes import free_space
from panoptic_cli.weights.cache import cache_folder
from panoptic_cli.weights.copies import describe_caches

# Variables of our dependencies that change what we do. Their values can contain passwords and host names, so only
# their names are reported.
_OTHER_VARIABLES = (
    "CUDA_VISIBLE_DEVICES",
    "TF_CONFIG",
    "STORAGE_EMULATOR_HOST",
    "HF_HOME",
    "HF_HUB_CACHE",
    "HF_ENDPOINT",
    "HF_TOKEN",
    "HF_HUB_OFFLINE",
    "http_proxy",
    "https_proxy",
    "no_proxy",
)

_LIST_DEVICES = """
import json, os
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import tensorflow as tf
names = []
for device in tf.config.list_physical_devices():
    details = tf.config.experimental.get_device_details(device) if device.device_type == "GPU" else {}
    names.append((device.name + " " + details.get("device_name", "")).strip())
from dataclasses import asdict
from panoptic_cli.devices import tensorflow_build
print("DEVICES" + json.dumps({"listed": names, "build": asdict(tensorflow_build())}))
"""


def diagnose(data_dir: Path, variables: Iterable[str], device_timeout: float | None) -> dict[str, Any]:
    """Collects versions, devices, programs, disk space and environment variables.

    Args:
        data_dir: the data folder, which may not exist; its disk is reported.
        variables: the environment variables that panoptic reads; their values are reported.
        device_timeout: seconds to wait for TensorFlow's list of devices; None: do not ask.

    Returns:
        Values for JSON: panoptic, python, platform, machine (cores, memory_bytes), disk (data_dir, exists,
        free_bytes), cache (folder, bytes, free_bytes, hugging_face_folder, hugging_face_bytes), packages, devices
        (listed, problem, build), gpus (cards, problem, missing_libraries), aria2c, credentials, environment,
        unknown_variables and other_variables_set.
    """
    known = sorted(variables)
    not_asked: dict[str, Any] = {"listed": [], "problem": "not asked (--no-devices)", "build": None}
    devices = not_asked if device_timeout is None else tensorflow_devices(device_timeout)
    return {
        "panoptic": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": {"cores": _cores(), "memory_bytes": machine_memory()},
        "disk": {"data_dir": str(data_dir), "exists": data_dir.is_dir(), "free_bytes": free_space(data_dir)},
        "cache": describe_caches() | {"free_bytes": free_space(cache_folder())},
        "packages": package_versions(),
        "devices": devices,
        "gpus": nvidia_gpus(devices["listed"], devices["build"]),
        "aria2c": _aria2c(),
        "credentials": google_credentials(),
        "environment": {name: os.environ.get(name) for name in known},
        "unknown_variables": sorted(name for name in os.environ if name.startswith("PANOPTIC_") and name not in known),
        "other_variables_set": [name for name in _OTHER_VARIABLES if os.environ.get(name)],
    }


def package_versions() -> dict[str, str | None]:
    """Returns the versions of our dependencies from the packages' metadata, without importing them.

    Returns:
        Package name -> version, or None if it is not installed. TensorFlow has the name of its distribution. Other
        optional dependencies are listed only if TensorFlow needs them.
    """
    requirements = metadata.requires("panoptic-cli") or []
    names = [re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0] for line in requirements if "extra ==" not in line]
    versions: dict[str, str | None] = {"tensorflow": None, **startup.tensorflow_packages()}
    if len(versions) > 1 and versions["tensorflow"] is None:
        del versions["tensorflow"]  # another distribution of it is installed
    for name in ("keras", *names):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def tensorflow_devices(timeout: float) -> dict[str, Any]:
    """Lists TensorFlow's devices in a separate process, because a broken driver can crash or hang the import.

    Args:
        timeout: seconds to wait.

    Returns:
        `listed`, the devices' names; `problem`, why there are none, or None; `build`, TensorFlow's version and those of
        CUDA and cuDNN that it was built for, or None.
    """
    try:
        startup.require_tensorflow()
    except DeviceError as error:
        return {"listed": [], "problem": str(error), "build": None}
    try:
        done = subprocess.run([sys.executable, "-c", _LIST_DEVICES], capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        return {"listed": [], "problem": f"TensorFlow did not answer within {timeout:g} s (--timeout)", "build": None}
    for line in done.stdout.splitlines():
        if line.startswith("DEVICES"):
            return {"problem": None, **json.loads(line.removeprefix("DEVICES"))}
    last = one_line((done.stderr.strip().splitlines() or ["no message"])[-1])
    return {
        "listed": [],
        "problem": f"TensorFlow does not start (exit code {done.returncode}): {last}",
        "build": None,
    }


def nvidia_gpus(listed: list[str], build: dict[str, str | None] | None) -> dict[str, Any]:
    """Lists the NVIDIA GPUs and says why TensorFlow does not.

    Args:
        listed: TensorFlow's devices.
        build: what TensorFlow was built for; None if it was not asked, or does not start.

    Returns:
        `cards` (name, driver, memory_bytes), `problem`, why TensorFlow lists none of them, or None, and
        `missing_libraries`, the CUDA libraries that it does not find.
    """
    cards = gpus.find_cards()
    known = None if build is None else gpus.Build(build["version"] or "", build["cuda"], build["cudnn"])
    problem = None
    if cards and known is not None and not any("GPU" in name for name in listed):
        problem = ". ".join(gpus.why_unusable(known, cards))
    return {
        "cards": [asdict(card) for card in cards],
        "problem": problem,
        "missing_libraries": gpus.missing_libraries(known) if cards and known is not None else [],
    }


def google_credentials() -> dict[str, str]:
    """Reports whether Application Default Credentials exist, without their content or path."""
    variable = os.environ.get("GOOGLE_APPLICATION_CREDENTIALS")
    named = "unset" if not variable else "set, file found" if Path(variable).is_file() else "set, FILE MISSING"
    config = os.environ.get("CLOUDSDK_CONFIG")
    base = os.environ.get("APPDATA") if sys.platform == "win32" else str(Path.home() / ".config")
    folder = Path(config) if config else Path(base or ".") / "gcloud"
    login = (folder / "application_default_credentials.json").is_file()
    return {
        "GOOGLE_APPLICATION_CREDENTIALS": named,
        "gcloud application-default login": "yes" if login else "no",
    }


def _aria2c() -> str | None:
    program = find_aria2c()
    if program is None:
        return None
    try:
        done = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return "installed, but does not run"
    return (done.stdout.splitlines() or ["installed, but prints no version"])[0]


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
