"""From nothing to a data set in COCO layout: plan, fetch, verify, extract; each skipped where it is done."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote, urlsplit

from panoptic_cli import console, files
from panoptic_cli.errors import DataError, TransferError, UsageError, summarize
from panoptic_cli.transfer.aria2c import control_path, part_path, require_aria2c
from panoptic_cli.transfer.extract import extract
from panoptic_cli.transfer.manifest import Archive, Manifest, Output
from panoptic_cli.transfer.receipts import Receipts
from panoptic_cli.transfer.sizes import free_space, human_size, require_free_space

ZIPS = "zips"
_MB = 10**6
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
        state, have = _state(path, bool(missing))
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


def run_plan(plan: Plan, *, connections: int = 8, keep_zips: bool = False) -> dict[str, Any]:
    """Fetches, verifies and extracts what the plan lacks.

    Args:
        plan: from `make_plan`.
        connections: connections for each archive, 1..16.
        keep_zips: keeps the archives in `<data-dir>/zips`.

    Returns:
        Plain values: data_dir, fetched (file names), bytes_fetched, extracted and already_complete (outputs).

    Raises:
        TransferError: what could not be fetched, verified or extracted. The same call takes it up from there.
    """
    work = [item for item in plan.items if item.missing]
    if any(item.state != "archive here" for item in work):
        require_aria2c()  # before anything is made
    try:
        plan.data_dir.mkdir(parents=True, exist_ok=True)
        receipts = Receipts(plan.data_dir)
        lacking, fetched = [item for item in work if not _usable(item)], 0
        if lacking:
            require_free_space(plan.data_dir, plan.needed, "This download with its extraction")
            fetched = _fetch(lacking, connections, receipts, keep_zips)
        for item in work:
            _extract(item, plan.data_dir, receipts)
            if not keep_zips and receipts.is_temporary(item.archive):
                item.path.unlink(missing_ok=True)
                receipts.set_temporary(item.archive, False)
        zips = plan.data_dir / ZIPS
        if zips.is_dir() and not any(zips.iterdir()):
            zips.rmdir()
    except OSError as error:
        where = error.filename or plan.data_dir
        raise TransferError(f"{where}: {error.strerror}.", "Check the data folder, or give another.") from error
    done = [output.to for item in work for output in item.missing]
    return {
        "data_dir": str(plan.data_dir),
        "fetched": [item.archive.filename for item in lacking],
        "bytes_fetched": fetched,
        "extracted": done,
        "already_complete": [o.to for item in plan.items for o in item.outputs if o.to not in done],
    }


def verify(path: Path, archive: Archive) -> str | None:
    """Compares a file with the manifest's size and SHA-256.

    Returns:
        What is wrong, or None when all that the manifest knows agrees.
    """
    size = path.stat().st_size
    if archive.size is not None and size != archive.size:
        return f"{path} has {size:,} bytes instead of {archive.size:,}"
    if archive.sha256 is not None:
        console.info(f"Checking the SHA-256 of {path.name} ({human_size(size)})")
        found = files.sha256(path)
        if found != archive.sha256:
            return f"{path} has SHA-256 {found} instead of {archive.sha256}"
    return None


def _state(path: Path, missing: bool) -> tuple[State, int]:
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


def _set_aside(path: Path) -> Path:
    aside = path.with_name(path.name + ".corrupt")
    path.replace(aside)
    return aside


def _usable(item: Item) -> bool:
    """Whether the archive is on the disk and right; a wrong one is moved aside to be fetched anew."""
    if not item.path.is_file():
        return False
    problem = verify(item.path, item.archive)
    if problem is not None:
        console.warn(f"{problem}; it is now {_set_aside(item.path).name} and is fetched again.")
    return problem is None


def _fetch(items: Sequence[Item], connections: int, receipts: Receipts, keep_zips: bool) -> int:
    from panoptic_cli.transfer import daemon

    for item in items:
        item.path.parent.mkdir(parents=True, exist_ok=True)
        receipts.set_temporary(item.archive, not keep_zips)
    sizes = [item.archive.size for item in items]
    total = None if None in sizes else round(sum(size or 0 for size in sizes) / _MB)
    start = round(sum(item.have for item in items if item.state == "partly fetched") / _MB)
    wanted = [daemon.Fetch(item.url, item.path, item.archive.size) for item in items]
    with daemon.daemon(connections) as client, console.progress("Downloading", total, "MB", start) as advance:
        daemon.fetch(client, wanted, _in_megabytes(advance, start))
    fetched = sum(item.path.stat().st_size for item in items)
    fetched -= sum(item.have for item in items if item.state == "partly fetched")
    problems = []
    for item in items:
        problem = verify(item.path, item.archive)
        if problem is not None:
            problems.append(f"{problem}; kept as {_set_aside(item.path).name}")
    if problems:
        raise TransferError(
            f"A fetched archive is not the one the manifest names: {summarize(problems)}.",
            "Run the same command again to fetch it anew, or give another --base-url.",
        )
    return fetched


def _in_megabytes(advance: Callable[..., None], start: int) -> Callable[[int, str], None]:
    shown = start

    def report(done: int, note: str) -> None:
        nonlocal shown
        now = max(shown, round(done / _MB))
        advance(now - shown, note)
        shown = now

    return report


def _extract(item: Item, data_dir: Path, receipts: Receipts) -> None:
    workers = min(8, os.cpu_count() or 1)
    for output in item.missing:
        with console.progress(f"Extracting {output.to}", output.files, "files") as advance:
            extracted = extract(item.path, output, data_dir, workers, advance)
        if output.files is not None and extracted.files != output.files:
            console.warn(
                f"{item.archive.filename} holds {extracted.files:,} files for {output.to}, "
                f"the manifest says {output.files:,}."
            )
        receipts.record(item.archive, output, extracted)
