"""Format byte counts and check for free disk space."""

from __future__ import annotations

import shutil
from pathlib import Path

from panoptic_cli.errors import TransferError


def human_size(count: float) -> str:
    """Formats a byte count in decimal units, as for disks and downloads: 815585330 is "815.6 MB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.95:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def free_space(path: Path) -> int:
    """Returns the free bytes of the disk that holds `path`, which may not exist yet."""
    existing = path.absolute()
    while not existing.exists():
        existing = existing.parent
    return shutil.disk_usage(existing).free


def require_free_space(path: Path, needed: int, what: str) -> None:
    """Checks that `needed` more bytes fit on the disk of `path`.

    Raises:
        TransferError: they do not fit; the message says how much is missing.
    """
    free = free_space(path)
    if needed > free:
        raise TransferError(
            f"{what} needs about {human_size(needed)} in {path}, but only {human_size(free)} is free.",
            f"Free {human_size(needed - free)}, or give another --data-dir.",
        )
