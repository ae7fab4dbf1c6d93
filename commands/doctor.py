"""`panoptic doctor`: facts about this machine, ready to paste into a bug report."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from panoptic_cli import console
from panoptic_cli.transfer.aria2c import install_hint
from panoptic_cli.transfer.sizes import human_size

from .options import DEFAULT_DATA_DIR, DataDir, Json


def doctor(
    context: typer.Context,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    devices: Annotated[
        bool, typer.Option("--devices/--no-devices", help="Import TensorFlow and list its devices.")
    ] = True,
    timeout: Annotated[
        float, typer.Option("--timeout", min=1, metavar="SECONDS", help="How long to wait for TensorFlow.")
    ] = 60,
    json: Json = False,
) -> None:
    """Print versions, devices, programs, disk space and environment, ready to paste into a bug report.

    Credentials are never printed, only whether they are set.

    Examples:
        panoptic doctor
        panoptic doctor --no-devices --json
    """
    from panoptic_cli.diagnostics import diagnose

    variables = environment_variables(context.find_root().command)
    report = diagnose(data_dir, variables, timeout if devices else None)
    console.result(report, _text(report))


def environment_variables(root: Any) -> set[str]:
    """Returns PANOPTIC_DEBUG, PANOPTIC_CACHE and the variables that the options of all commands read."""
    names = {"PANOPTIC_DEBUG", "PANOPTIC_CACHE"}
    pending = [root]
    while pending:
        command = pending.pop()
        pending += getattr(command, "commands", {}).values()
        for parameter in command.params:
            variable = parameter.envvar
            names.update([variable] if isinstance(variable, str) else variable or [])
    return names


def _cards(found: dict[str, Any]) -> str:
    """Returns the GPUs with driver and memory, and why TensorFlow lists none of them."""
    names = [
        f"{card['name']}"
        + (f", {human_size(card['memory_bytes'])}" if card["memory_bytes"] else "")
        + (f", driver {card['driver']}" if card["driver"] else "")
        for card in found["cards"]
    ]
    unusable = f". TensorFlow cannot use them: {found['problem']}" if found["problem"] else ""
    return ("; ".join(names) or "no NVIDIA GPU") + unusable


def _cuda(build: dict[str, Any] | None, found: dict[str, Any]) -> str:
    """Returns the versions that TensorFlow was built for, and the libraries that are missing."""
    if build is None:
        return "unknown"
    if build["cuda"] is None:
        return f"TensorFlow {build['version']} is built without CUDA"
    missing = found["missing_libraries"]
    text = f"TensorFlow {build['version']} is built for CUDA {build['cuda']} and cuDNN {build['cudnn']}"
    return text + (f"; MISSING {', '.join(missing)}" if missing else "")


def _text(report: dict[str, Any]) -> str:
    machine, disk, cache, found = report["machine"], report["disk"], report["cache"], report["devices"]
    memory = "unknown memory" if machine["memory_bytes"] is None else human_size(machine["memory_bytes"]) + " memory"
    exists = "" if disk["exists"] else " (does not exist yet)"
    rows = [
        ("panoptic", report["panoptic"]),
        ("python", f"{report['python']} on {report['platform']}"),
        ("machine", f"{machine['cores']} cores, {memory}"),
        ("data-dir", f"{disk['data_dir']}{exists}, {human_size(disk['free_bytes'])} free"),
        ("cache", f"{cache['folder']}, {human_size(cache['bytes'])}; {human_size(cache['free_bytes'])} free"),
        (
            "  of hf://",
            f"{cache['hugging_face_folder']}, {human_size(cache['hugging_face_bytes'])} of published weights",
        ),
        *((f"  {name}", version or "NOT INSTALLED") for name, version in report["packages"].items()),
        ("devices", found["problem"] or ", ".join(found["listed"])),
        ("gpus", _cards(report["gpus"])),
        ("cuda", _cuda(report["devices"]["build"], report["gpus"])),
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
