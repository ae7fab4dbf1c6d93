"""What a download would do: which archives and outputs are there, which are missing, how much disk that takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote, urlsplit

from panoptic_cli.errors import DataError, UsageError
from panoptic_cli.transfer.aria2c import control_path, part_path
from panoptic_cli.transfer.manifest import Archive, Manifest, Output
from panoptic_cli.transfer.receipts import Receipts
from panoptic_cli.transfer.sizes import free_space

ZIPS = "zips"
State = Literal["complete", "archive here", "partly fetched", "to fetch"]


@dataclass(frozen=True)
class Item:
    """One archive of a plan.

    Attributes:
        archive: the archive.
        url: where it is fetched from.
        path: where it is kept while it is needed.
        outputs: what the chosen splits need of it.
        missing: those outputs that are not complete yet.
        state: how far it is.
        have: bytes of the archive already on the disk.
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
        """Bytes still to fetch; None when the size is not known."""
        if self.state in ("complete", "archive here"):
            return 0
        return None if self.archive.size is None else max(0, self.archive.size - self.have)

    @property
    def to_unpack(self) -> int:
        """Estimate of the bytes that extraction adds."""
        size = self.archive.size or self.have
        return int(size * self.archive.unpack_ratio) if self.missing else 0


@dataclass(frozen=True)
class Plan:
    """What a download would do.

    Attributes:
        data_dir: the data folder.
        items: every archive that the splits need.
        free: bytes free on the disk now.
    """

    data_dir: Path
    items: tuple[Item, ...]
    free: int

    @property
    def to_fetch(self) -> int:
        """Bytes still to fetch, archives of unknown size not counted."""
        return sum(item.to_fetch or 0 for item in self.items)

    @property
    def needed(self) -> int:
        """Estimate of the disk space still needed: archives and what they extract to."""
        return self.to_fetch + sum(item.to_unpack for item in self.items)

    def to_json(self) -> dict[str, Any]:
        """Returns the plan as plain values."""
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


def make_plan(manifest: Manifest, data_dir: Path, splits: Sequence[str], base_url: str | None = None) -> Plan:
    """Finds out what is there and what is to do. Changes nothing and asks no server.

    Args:
        manifest: the data set.
        data_dir: the data folder, which may not exist yet.
        splits: "train", "val" or both.
        base_url: where to fetch from instead of the manifest's own base URL.

    Raises:
        UsageError: no usable base URL.
        DataError: the folder holds outputs of another data set.
    """
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
            f"{', '.join(foreign)} came from another archive than this manifest's.",
            "Give another --data-dir, or move the old data away.",
        )
    if not items:
        raise UsageError(f"The manifest has nothing for {', '.join(splits)}.", "Check --split and --manifest.")
    return Plan(data_dir, tuple(items), free_space(data_dir))


def state_of(path: Path, missing: bool) -> tuple[State, int]:
    """Returns how far an archive is, and how many of its bytes are on the disk.

    Args:
        path: where the archive is kept.
        missing: whether any of its outputs is.
    """
    if not missing:
        return "complete", 0
    if path.is_file():
        return "archive here", path.stat().st_size
    part = part_path(path)
    if part.is_file() and control_path(path).is_file():
        found = part.stat()
        # The pieces are written where they belong, so the file has holes: what counts is the space it takes.
        return "partly fetched", min(found.st_size, getattr(found, "st_blocks", found.st_size) * 512)
    return "to fetch", 0
