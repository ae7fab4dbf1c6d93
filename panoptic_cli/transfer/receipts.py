"""What a data folder already holds: a note of what was extracted completely, checked against the disk."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from panoptic_cli import console, files
from panoptic_cli.transfer.extract import Extracted
from panoptic_cli.transfer.manifest import Archive, Output

FILENAME = ".download.json"


class Receipts:
    """The note `<data-dir>/.download.json`.

    For every output: from which archive it came and how many files and bytes it had. For every archive:
    whether it is ours to delete once it is extracted.

    Args:
        data_dir: the data folder, which may not exist yet.
    """

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._path = data_dir / FILENAME
        self._outputs: dict[str, dict[str, Any]] = {}
        self._temporary: set[str] = set()
        try:
            value = json.loads(self._path.read_bytes())
            self._outputs = {key: _checked(entry) for key, entry in value["outputs"].items()}
            self._temporary = set(value["temporary"])
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            console.warn(f"{self._path} cannot be read; what is already here is checked from scratch.")

    def is_complete(self, archive: Archive, output: Output) -> bool:
        """Whether an output is on the disk, whole, and comes from this archive.

        Without a note, a folder counts as complete when it holds as many files as the manifest says.
        """
        found = measure(self._data_dir / output.to)
        note = self._outputs.get(output.to)
        if found is None or note is None:
            return found is not None and output.files is not None and found.files >= output.files
        return note["archive"] == identity(archive) and found.files >= note["files"] and found.bytes >= note["bytes"]

    def foreign(self, archive: Archive, output: Output) -> bool:
        """Whether the folder or file is there, but from another archive than this one."""
        note = self._outputs.get(output.to)
        return note is not None and note["archive"] != identity(archive) and (self._data_dir / output.to).exists()

    def record(self, archive: Archive, output: Output, extracted: Extracted) -> None:
        """Notes that an output is complete."""
        self._outputs[output.to] = {
            "archive": identity(archive),
            "files": extracted.files,
            "bytes": extracted.bytes,
        }
        self._save()

    def set_temporary(self, archive: Archive, temporary: bool) -> None:
        """Notes whether the zip file is to go once it is extracted."""
        (self._temporary.add if temporary else self._temporary.discard)(archive.filename)
        self._save()

    def is_temporary(self, archive: Archive) -> bool:
        """Whether the zip file is ours to delete."""
        return archive.filename in self._temporary

    def _save(self) -> None:
        files.write_json(self._path, {"outputs": self._outputs, "temporary": sorted(self._temporary)})


def _checked(entry: dict[str, Any]) -> dict[str, Any]:
    """Returns the note of an output; ValueError or the like when it is not as we write it."""
    return {"archive": str(entry["archive"]), "files": int(entry["files"]), "bytes": int(entry["bytes"])}


def identity(archive: Archive) -> str:
    """Returns what tells versions of an archive apart: its SHA-256, else its size, else its path."""
    return archive.sha256 or (f"{archive.path}:{archive.size}" if archive.size else archive.path)


def measure(path: Path) -> Extracted | None:
    """Counts the files below a folder (or a file) and their bytes; None when it does not exist."""
    if path.is_file():
        return Extracted(1, path.stat().st_size)
    if not path.is_dir():
        return None
    count = size = 0
    folders = [str(path)]
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.is_dir():
                    folders.append(entry.path)
                elif not entry.name.startswith("."):
                    count, size = count + 1, size + entry.stat().st_size
    return Extracted(count, size)
