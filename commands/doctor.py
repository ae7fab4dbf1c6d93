"""`panoptic doctor`: what a bug report needs to know about this machine, ready to paste."""

from __future__ import annotations

import json as json_module
import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from panoptic_cli import __version__, console
from panoptic_cli.transfer.aria2c import find_aria2c, install_hint
from panoptic_cli.transfer.sizes import free_space, human_size

from .options import DEFAULT_DATA_DIR, DataDir, Json

# Variables that our dependencies read and that change what we do. Only whether they are set is shown: they
# can hold passwords and addresses of machines.
_OTHERS = (
    "CUDA_VISIBLE_DEVICES",
    "TF_CONFIG",
    "STORAGE_EMULATOR_HOST",
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
print("DEVICES" + json.dumps(names))
"""


def doctor(
    data_dir: DataDir = DEFAULT_DATA_DIR,
    devices: Annotated[
        bool, typer.Option("--devices/--no-devices", help="Import TensorFlow and list its devices.")
    ] = True,
    timeout: Annotated[
        float, typer.Option("--timeout", min=1, metavar="SECONDS", help="How long to wait for TensorFlow.")
    ] = 60,
    json: Json = False,
) -> None:
    """Print versions, devices, programs, disk and environment, ready to paste into a bug report.

    Of credentials it says only whether there are any.

    Examples:
        panoptic doctor
        panoptic doctor --no-devices --json
    """
    report: dict[str, Any] = {
        "panoptic": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": {"cores": _cores(), "memory_bytes": _memory()},
        "disk": {"data_dir": str(data_dir), "exists": data_dir.is_dir(), "free_bytes": free_space(data_dir)},
        "packages": _packages(),
        "devices": _devices(timeout) if devices else {"listed": [], "problem": "not asked (--no-devices)"},
        "aria2c": _aria2c(),
        "credentials": _credentials(),
        "environment": {name: os.environ.get(name) for name in _variables()},
        "unknown_variables": _unknown_variables(),
        "other_variables_set": [name for name in _OTHERS if os.environ.get(name)],
    }
    console.result(report, _text(report))


def _text(report: dict[str, Any]) -> str:
    machine, disk, found = report["machine"], report["disk"], report["devices"]
    memory = "unknown memory" if machine["memory_bytes"] is None else human_size(machine["memory_bytes"]) + " memory"
    exists = "" if disk["exists"] else " (does not exist yet)"
    rows = [
        ("panoptic", report["panoptic"]),
        ("python", f"{report['python']} on {report['platform']}"),
        ("machine", f"{machine['cores']} cores, {memory}"),
        ("data-dir", f"{disk['data_dir']}{exists}, {human_size(disk['free_bytes'])} free"),
        *((f"  {name}", version or "NOT INSTALLED") for name, version in report["packages"].items()),
        ("devices", found["problem"] or ", ".join(found["listed"])),
        ("aria2c", report["aria2c"] or f"NOT INSTALLED. {install_hint()}"),
        *((f"  {name}", state) for name, state in report["credentials"].items()),
        *((f"  {name}", "(unset)" if value is None else value) for name, value in report["environment"].items()),
        *((f"  {name}", "set, but no option reads it") for name in report["unknown_variables"]),
        ("also set", ", ".join(report["other_variables_set"]) or "none"),
    ]
    headings = {
        f"  {next(iter(report['packages']))}": "packages",
        f"  {next(iter(report['credentials']))}": "credentials",
        f"  {next(iter(report['environment']))}": "environment",
    }
    width = max(len(name) for name, _ in rows) + 2
    lines = []
    for name, value in rows:
        if name in headings:
            lines.append(headings[name])
        lines.append(f"{name:<{width}}{value}")
    return "\n".join(lines)


def _packages() -> dict[str, str | None]:
    """Versions of what we depend on, from the packages' own metadata: nothing is imported."""
    from importlib import metadata

    requirements = metadata.requires("panoptic-cli") or []
    names = [re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0] for line in requirements if "extra ==" not in line]
    versions: dict[str, str | None] = {}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def _devices(timeout: float) -> dict[str, Any]:
    """TensorFlow's devices, asked in a process of its own: a broken driver can crash or hang the import."""
    try:
        done = subprocess.run([sys.executable, "-c", _LIST_DEVICES], capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        return {"listed": [], "problem": f"TensorFlow did not answer within {timeout:g} s (--timeout)"}
    for line in done.stdout.splitlines():
        if line.startswith("DEVICES"):
            return {"listed": json_module.loads(line.removeprefix("DEVICES")), "problem": None}
    last = (done.stderr.strip().splitlines() or ["no message"])[-1]
    return {"listed": [], "problem": f"TensorFlow does not start (exit code {done.returncode}): {last}"}


def _aria2c() -> str | None:
    program = find_aria2c()
    if program is None:
        return None
    try:
        done = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return "installed, but does not run"
    return (done.stdout.splitlines() or ["installed, but says no version"])[0]


def _credentials() -> dict[str, str]:
    """Whether Application Default Credentials are there. Neither their content nor their place is shown."""
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


def _variables() -> list[str]:
    """PANOPTIC_DEBUG, and every variable that an option of any command reads: the list cannot drift."""
    from .main import app  # main imports this module

    names = {"PANOPTIC_DEBUG"}
    pending = [typer.main.get_command(app)]
    while pending:
        command = pending.pop()
        pending += getattr(command, "commands", {}).values()
        for parameter in command.params:
            variable = parameter.envvar
            names.update([variable] if isinstance(variable, str) else variable or [])
    return sorted(names)


def _unknown_variables() -> list[str]:
    known = set(_variables())
    return sorted(name for name in os.environ if name.startswith("PANOPTIC_") and name not in known)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
