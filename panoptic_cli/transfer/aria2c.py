"""The aria2c program: finding and installing it, and the names of its unfinished files."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from panoptic_cli.errors import TransferError


def part_path(path: Path) -> Path:
    """Returns the path of a file until it is complete."""
    return path.with_name(path.name + ".part")


def control_path(path: Path) -> Path:
    """Returns the path of aria2's list of the pieces that an incomplete file has."""
    return path.with_name(path.name + ".part.aria2")


def find_aria2c() -> str | None:
    """Returns the path of the aria2c program, None if it is not installed."""
    return shutil.which("aria2c")


def install_hint() -> str:
    """Returns the command that installs aria2c on this platform."""
    if sys.platform == "darwin":
        return "Install it with: brew install aria2"
    if sys.platform == "win32":
        return "Install it with: winget install aria2.aria2"
    managers = (
        ("apt-get", "sudo apt-get install -y aria2"),
        ("dnf", "sudo dnf install -y aria2"),
        ("pacman", "sudo pacman -S aria2"),
        ("apk", "sudo apk add aria2"),
    )
    for program, command in managers:
        if shutil.which(program):
            return f"Install it with: {command}"
    return "Install the package aria2 (https://aria2.github.io)."


def require_aria2c() -> str:
    """Returns the path of aria2c.

    Raises:
        TransferError: it is not installed; the hint is the installation command.
    """
    program = find_aria2c()
    if program is None:
        raise TransferError("download needs the program aria2c, which is not installed.", install_hint())
    return program
