"""Download, verify and extract a data set; skip what is complete."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from panoptic_cli import console
from panoptic_cli.errors import TransferError, listed, summarize
from panoptic_cli.interrupts import terminate_as_interrupt
from panoptic_cli.locks import folder_lock
from panoptic_cli.transfer.aria2c import control_path, part_path, require_aria2c
from panoptic_cli.transfer.download_plan import ZIPS, Item, Plan, state_of
from panoptic_cli.transfer.extract import Extracted, extract
from panoptic_cli.transfer.manifest import Archive, Output
from panoptic_cli.transfer.progress import byte_progress
from panoptic_cli.transfer.receipts import Receipts, measure
from panoptic_cli.transfer.sizes import human_size, require_free_space

_BLOCK = 1 << 20


@dataclass(frozen=True)
class OutputState:
    """An output after a download.

    Attributes:
        path: the file or folder in the data folder.
        state: whether this download extracted it.
        files: number of files.
        bytes: their size.
    """

    path: str
    state: Literal["new", "was here"]
    files: int
    bytes: int


@dataclass(frozen=True)
class DownloadOutcome:
    """What a download did.

    Attributes:
        data_dir: the data folder.
        fetched: file names of the downloaded archives.
        bytes_fetched: bytes downloaded.
        outputs: all outputs of the chosen splits.
    """

    data_dir: Path
    fetched: list[str]
    bytes_fetched: int
    outputs: list[OutputState]

    @property
    def extracted(self) -> list[str]:
        """Paths of the outputs that this download extracted."""
        return [output.path for output in self.outputs if output.state == "new"]

    def to_json(self) -> dict[str, Any]:
        """Returns values for JSON."""
        return {
            "data_dir": str(self.data_dir),
            "fetched": self.fetched,
            "bytes_fetched": self.bytes_fetched,
            "extracted": self.extracted,
            "already_complete": [output.path for output in self.outputs if output.state == "was here"],
            "outputs": [asdict(output) for output in self.outputs],
        }


def run_plan(plan: Plan, *, connections: int = 8, keep_zips: bool = False) -> DownloadOutcome:
    """Downloads, verifies and extracts what is missing in the plan.

    Args:
        plan: from `make_plan`.
        connections: connections for each archive, 1..16.
        keep_zips: whether to keep the archives in `<data-dir>/zips`.

    Raises:
        TransferError: something could not be downloaded, verified or extracted. The same call resumes.
        KeyboardInterrupt: on Ctrl-C, SIGTERM or SIGHUP, after a message about what is kept.
    """
    work = [item for item in plan.items if item.missing]
    if any(item.state != "archive here" for item in work):
        require_aria2c()  # before anything is written
    lacking: list[Item] = []
    fetched = 0
    try:
        plan.data_dir.mkdir(parents=True, exist_ok=True)
        with terminate_as_interrupt(), folder_lock(plan.data_dir, "panoptic download", "give another --data-dir"):
            receipts = Receipts(plan.data_dir)
            lacking = [item for item in work if not _usable(item)]
            if lacking:
                fetched = _fetch(plan, lacking, connections, receipts, keep_zips)
            if work:
                console.info(f"Extracting into {plan.data_dir}:")
            for item in work:
                _extract(item, plan.data_dir, receipts)
                if not keep_zips and receipts.is_temporary(item.archive):
                    item.path.unlink(missing_ok=True)
                    receipts.set_temporary(item.archive, False)
            zips = plan.data_dir / ZIPS
            if zips.is_dir() and not any(zips.iterdir()):
                zips.rmdir()
    except KeyboardInterrupt:
        console.warn(f"stopped. {_kept(plan, work)} Run the same command again to resume.")
        raise
    except OSError as error:
        raise _disk_error(error, plan.data_dir) from error
    outputs = [
        _output_state(plan.data_dir, output, output in item.missing) for item in plan.items for output in item.outputs
    ]
    return DownloadOutcome(plan.data_dir, [item.archive.filename for item in lacking], fetched, outputs)


def verify(path: Path, archive: Archive) -> str | None:
    """Compares a file with the manifest's size and SHA-256.

    Returns:
        What is wrong; None if everything in the manifest matches.
    """
    size = path.stat().st_size
    if archive.size is not None and size != archive.size:
        return f"{path} has {size:,} bytes instead of {archive.size:,}"
    if archive.sha256 is not None:
        digest, done = hashlib.sha256(), 0
        with path.open("rb") as stream, byte_progress(archive.filename, size) as show:
            while block := stream.read(_BLOCK):
                digest.update(block)
                done += len(block)
                show(done)
        if digest.hexdigest() != archive.sha256:
            return f"{path} has SHA-256 {digest.hexdigest()} instead of {archive.sha256}"
    return None


def _set_aside(path: Path) -> Path:
    aside = path.with_name(path.name + ".corrupt")
    path.replace(aside)
    return aside


def _usable(item: Item) -> bool:
    """Whether the archive is complete and correct. Renames a wrong one, so that it is downloaded again."""
    part = part_path(item.path)
    if not item.path.is_file() and part.is_file() and not control_path(item.path).exists():
        # aria2c deletes its list of pieces when a file is complete. Either we were killed before we renamed the file,
        # or both of us before aria2c wrote its first list: only the checksum can tell.
        if item.archive.size != part.stat().st_size or item.archive.sha256 is None or verify(part, item.archive):
            part.unlink()
            return False
        part.replace(item.path)
        return True
    if not item.path.is_file():
        return False
    problem = verify(item.path, item.archive)
    if problem is not None:
        console.warn(f"{problem}; renamed to {_set_aside(item.path).name}, downloading it again.")
    return problem is None


def _fetch(plan: Plan, items: Sequence[Item], connections: int, receipts: Receipts, keep_zips: bool) -> int:
    from panoptic_cli.transfer import daemon

    have = {item: state_of(item.path, True)[1] for item in items}
    sizes = {item.path.name: item.archive.size for item in items}
    unpacked = sum(item.to_unpack for item in plan.items)
    needed = unpacked + sum(max(0, (item.archive.size or 0) - count) for item, count in have.items())
    require_free_space(plan.data_dir, needed, "The download with extraction")
    for item in items:
        item.path.parent.mkdir(parents=True, exist_ok=True)
        receipts.set_temporary(item.archive, not keep_zips)
    total = None if None in sizes.values() else sum(size or 0 for size in sizes.values())
    fetches = [daemon.Fetch(item.url, item.path) for item in items]
    with (
        daemon.daemon(connections) as client,
        byte_progress("Downloading", total, sizes, sum(have.values())) as show,
    ):

        def report(done: Mapping[str, int]) -> None:
            show(sum(done.values()), done)

        daemon.fetch(client, fetches, report)
    fetched = sum(item.path.stat().st_size - count for item, count in have.items())
    problems = []
    console.info("Checking sizes and SHA-256:")
    for item in items:
        problem = verify(item.path, item.archive)
        if problem is not None:
            problems.append(f"{problem}; kept as {_set_aside(item.path).name}")
    if problems:
        raise TransferError(
            f"A downloaded archive does not match the manifest: {summarize(problems)}.",
            "Run the same command again to download it again, or give another --base-url.",
        )
    return fetched


def _extract(item: Item, data_dir: Path, receipts: Receipts) -> None:
    workers = min(8, os.cpu_count() or 1)
    for output in item.missing:
        extracted = extract(item.path, output, data_dir, workers)
        if output.files is not None and extracted.files != output.files:
            console.warn(
                f"{item.archive.filename} has {extracted.files:,} files for {output.to}; "
                f"the manifest says {output.files:,}."
            )
        receipts.record(item.archive, output, extracted)


def _output_state(data_dir: Path, output: Output, is_new: bool) -> OutputState:
    found = measure(data_dir / output.to) or Extracted(0, 0)
    return OutputState(output.to, "new" if is_new else "was here", found.files, found.bytes)


def _kept(plan: Plan, work: Sequence[Item]) -> str:
    """Describes what an interrupted run keeps on the disk."""
    receipts, kept = Receipts(plan.data_dir), []
    for item in work:
        complete = [output.to for output in item.missing if receipts.is_complete(item.archive, output)]
        kept += complete
        if len(complete) < len(item.missing):
            state, have = state_of(item.path, True)
            if state == "archive here":
                kept.append(f"{ZIPS}/{item.archive.filename}")
            elif state == "partly fetched":
                size = "" if item.archive.size is None else f" of {human_size(item.archive.size)}"
                kept.append(f"{human_size(have)}{size} of {ZIPS}/{item.archive.filename}")
    return f"Kept in {plan.data_dir}: {listed(kept)}." if kept else "Nothing was complete yet."


def _disk_error(error: OSError, data_dir: Path) -> TransferError:
    where = error.filename or data_dir
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return TransferError(
            f"The disk is full: {where} cannot be written.", "Free space, then run the same command again to resume."
        )
    return TransferError(f"{where}: {error.strerror}.", "Check the data folder, or give another --data-dir.")
