"""Plan a download: which archives and outputs exist, which are missing, and how much disk space they need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote, urlsplit

from panoptic_cli.errors import DataError, UsageError, listed
from panoptic_cli.transfer.aria2c import control_path, part_path
from panoptic_cli.transfer.manifest import Archive, Output, load_manifest
from panoptic_cli.transfer.receipts import Receipts
from panoptic_cli.transfer.sizes import free_space

ZIPS = "zips"
State = Literal["complete", "archive here", "partly fetched", "to fetch"]


@dataclass(frozen=True)
class Item:
    """One archive of a plan.

    Attributes:
        archive: the archive.
        url: the archive's URL.
        path: the archive's file.
        outputs: the outputs that the chosen splits need.
        missing: the outputs that are not complete yet.
        state: how much of the archive is on the disk.
        have: bytes of the archive on the disk.
    """

    archive: Archive
    url: str
    path: Path
    outputs: tuple[Output, ...]
    missing: tuple[Output, ...]
    state: State
    have: int

    @property
    def to_fetch(self) -> int | None:
        """Bytes to download; None if the size is unknown."""
        if self.state in ("complete", "archive here"):
            return 0
        return None if self.archive.size is None else max(0, self.archive.size - self.have)

    @property
    def to_unpack(self) -> int:
        """Estimated bytes that extraction adds."""
        size = self.archive.size or self.have
        return int(size * self.archive.unpack_ratio) if self.missing else 0


@dataclass(frozen=True)
class Plan:
    """What a download would do.

    Attributes:
        data_dir: the data folder.
        items: every archive that the splits need.
        free: free bytes on the disk.
    """

    data_dir: Path
    items: tuple[Item, ...]
    free: int

    @property
    def to_fetch(self) -> int:
        """Bytes to download, without archives of unknown size."""
        return sum(item.to_fetch or 0 for item in self.items)

    @property
    def needed(self) -> int:
        """Estimated bytes of disk space needed for archives and outputs."""
        return self.to_fetch + sum(item.to_unpack for item in self.items)

    def to_json(self) -> dict[str, Any]:
        """Returns the plan as values for JSON."""
        return {
            "data_dir": str(self.data_dir),
            "archives": [
                {
                    "file": item.archive.filename,
                    "url": item.url,
                    "size": item.archive.size,
                    "sha256": item.archive.sha256,
                    "state": item.state,
                    "bytes_to_fetch": item.to_fetch,
                    "outputs": [output.to for output in item.outputs],
                    "missing": [output.to for output in item.missing],
                }
                for item in self.items
            ],
            "bytes_to_fetch": self.to_fetch,
            "bytes_needed": self.needed,
            "bytes_free": self.free,
        }


def make_plan(
    data_dir: Path, splits: Sequence[str], *, manifest_file: Path | None = None, base_url: str | None = None
) -> Plan:
    """Finds what exists and what is missing. Writes nothing and contacts no server.

    Args:
        data_dir: the data folder, which may not exist yet.
        splits: "train", "val" or both.
        manifest_file: the manifest of the data set; None for COCO 2017.
        base_url: the URL to download from, instead of the manifest's.

    Raises:
        UsageError: there is no usable base URL.
        ConfigError: the manifest is not valid.
        DataError: the manifest is missing, or the folder contains outputs of another data set.
    """
    manifest = load_manifest(manifest_file)
    base = base_url or manifest.base_url
    if base is None:
        raise UsageError("The manifest has no base_url.", "Give --base-url.")
    if urlsplit(base).scheme not in ("http", "https", "ftp") or not urlsplit(base).netloc:
        raise UsageError(f"'{base}' is not a web address.", "Give --base-url as http://server/path/.")
    if data_dir.exists() and not data_dir.is_dir():
        raise DataError(f"{data_dir} is a file, not a folder.", "Give another --data-dir.")
    receipts, items, foreign = Receipts(data_dir), [], []
    for archive in manifest.archives:
        outputs = archive.outputs_for(splits)
        if not outputs:
            continue
        foreign += [str(data_dir / output.to) for output in outputs if receipts.foreign(archive, output)]
        missing = tuple(output for output in outputs if not receipts.is_complete(archive, output))
        path = data_dir / ZIPS / archive.filename
        state, have = state_of(path, bool(missing))
        url = base.rstrip("/") + "/" + quote(archive.path)
        items.append(Item(archive, url, path, outputs, missing, state, have))
    if foreign:
        raise DataError(
            f"{listed(foreign)} came from a different archive than the one in the manifest.",
            "Give another --data-dir, or move the old data away.",
        )
    if not items:
        raise UsageError(f"The manifest has nothing for {listed(splits)}.", "Check --split and --manifest.")
    return Plan(data_dir, tuple(items), free_space(data_dir))


def state_of(path: Path, missing: bool) -> tuple[State, int]:
    """Returns the state of an archive and its bytes on the disk.

    Args:
        path: the archive's file.
        missing: whether any of its outputs is missing.
    """
    if not missing:
        return "complete", 0
    if path.is_file():
        return "archive here", path.stat().st_size
    part = part_path(path)
    if part.is_file() and control_path(path).is_file():
        found = part.stat()
        # The pieces are written at their final offsets, so the file has holes: count the space that it occupies.
        return "partly fetched", min(found.st_size, getattr(found, "st_blocks", found.st_size) * 512)
    return "to fetch", 0
