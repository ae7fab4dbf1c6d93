"""Record what was extracted completely into a data folder, and compare it with the disk."""

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
    """The receipts in `<data-dir>/.download.json`.

    For every output, the archive it came from and its numbers of files and bytes. For every archive, whether we may
    delete it after extraction.

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
            console.warn(f"{self._path} cannot be read; existing files are checked from scratch.")

    def is_complete(self, archive: Archive, output: Output) -> bool:
        """Whether an output is complete on the disk and comes from this archive.

        Without a receipt, a folder is complete if it has as many files as the manifest says.
        """
        found = measure(self._data_dir / output.to)
        note = self._outputs.get(output.to)
        if found is None or note is None:
            return found is not None and output.files is not None and found.files >= output.files
        return note["archive"] == identity(archive) and found.files >= note["files"] and found.bytes >= note["bytes"]

    def foreign(self, archive: Archive, output: Output) -> bool:
        """Whether the folder or file exists but came from another archive."""
        note = self._outputs.get(output.to)
        return note is not None and note["archive"] != identity(archive) and (self._data_dir / output.to).exists()

    def record(self, archive: Archive, output: Output, extracted: Extracted) -> None:
        """Records that an output is complete."""
        self._outputs[output.to] = {
            "archive": identity(archive),
            "files": extracted.files,
            "bytes": extracted.bytes,
        }
        self._save()

    def set_temporary(self, archive: Archive, temporary: bool) -> None:
        """Records whether the zip file is deleted after extraction."""
        (self._temporary.add if temporary else self._temporary.discard)(archive.filename)
        self._save()

    def is_temporary(self, archive: Archive) -> bool:
        """Whether the zip file is deleted after extraction."""
        return archive.filename in self._temporary

    def _save(self) -> None:
        files.write_json(self._path, {"outputs": self._outputs, "temporary": sorted(self._temporary)})


def _checked(entry: dict[str, Any]) -> dict[str, Any]:
    """Returns the receipt of an output; raises ValueError or similar if it does not have our format."""
    return {"archive": str(entry["archive"]), "files": int(entry["files"]), "bytes": int(entry["bytes"])}


def identity(archive: Archive) -> str:
    """Returns what identifies a version of an archive: its SHA-256, else path and size, else its path."""
    return archive.sha256 or (f"{archive.path}:{archive.size}" if archive.size else archive.path)


def measure(path: Path) -> Extracted | None:
    """Counts the files below a folder and their bytes; a file counts as one. None if the path does not exist."""
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
