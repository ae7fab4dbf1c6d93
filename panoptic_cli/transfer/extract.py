"""Extract zip files: only inside the target folder, resumable, and without ever showing partial results."""

from __future__ import annotations

import contextlib
import errno
import lzma
import stat
import threading
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from panoptic_cli import files
from panoptic_cli.errors import TransferError, one_line, summarize
from panoptic_cli.transfer.manifest import Output
from panoptic_cli.transfer.progress import byte_progress
from panoptic_cli.transfer.sizes import human_size, require_free_space

# Deflate compresses by 1032 at most; annotation JSON by about 10. A larger ratio than this is not a data set.
MAX_UNPACK_RATIO = 200
_SMALL_TOTAL = 64 << 20  # bytes; below this, no ratio is suspicious
_BATCH = 64  # members that a thread takes at a time
_BLOCK = 1 << 20
_BROKEN = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, RuntimeError)


@dataclass(frozen=True)
class Extracted:
    """Number and bytes of the files of an output."""

    files: int
    bytes: int


@dataclass(frozen=True)
class _Job:
    info: zipfile.ZipInfo
    target: Path


def extract(archive: Path, output: Output, data_dir: Path, workers: int) -> Extracted:
    """Extracts one output of an archive. Skips existing files that have the declared size.

    A new folder is filled under a temporary name and renamed when it is complete. An existing folder is completed in
    place; each file is written under a temporary name first.

    Args:
        archive: the zip file.
        output: what to extract, and where to.
        data_dir: the folder that `output.to` is relative to.
        workers: number of threads.

    Returns:
        The number and size of the output's files.

    Raises:
        TransferError: the archive is broken, is unsafe (then nothing is written) or lacks the members, or the disk
            is full.
    """
    with contextlib.ExitStack() as stack:
        if output.archive is not None:
            archive = stack.enter_context(_nested(archive, output.archive, data_dir))
        opened = stack.enter_context(open_archive(archive))
        target = data_dir / output.to
        target.parent.mkdir(parents=True, exist_ok=True)
        if not output.is_folder:
            jobs = [_Job(_member(opened, output.members, archive), target)]
            _write_all(opened, archive, jobs, 1, data_dir, target.name)
        else:
            staging = target.with_name(f".{target.name}.partial")
            root = target if target.is_dir() else staging
            jobs = [
                _Job(info, root / info.filename[len(output.members) :])
                for info in opened.infolist()
                if info.filename.startswith(output.members) and not info.is_dir() and not _is_litter(info)
            ]
            if not jobs:
                raise TransferError(f"{archive} contains nothing below {output.members}.", "Check the manifest.")
            _write_all(opened, archive, jobs, workers, data_dir, f"{target.name}/")
            if root == staging:
                staging.replace(target)
            else:
                files.remove(staging)
        return Extracted(len(jobs), sum(job.info.file_size for job in jobs))


@contextlib.contextmanager
def open_archive(path: Path) -> Iterator[zipfile.ZipFile]:
    """Opens a zip file and checks every member.

    Raises:
        TransferError: it is not a zip file, a member points outside the folder, is a link, is encrypted or occurs
            twice, or the declared sizes are implausible.
    """
    try:
        opened = zipfile.ZipFile(path)
    except (*_BROKEN, ValueError) as error:  # ValueError: a member's name has another encoding than declared
        raise TransferError(
            f"{path} is not a complete zip file: {one_line(error)}.", "Delete it and download it again."
        ) from None
    with opened:
        problems = _problems(opened.infolist(), path.stat().st_size)
        if problems:
            raise TransferError(
                f"{path} is not safe to extract; nothing was extracted: {summarize(problems)}",
                "Do not use this archive. Get it from a source that you trust.",
            )
        yield opened


def _problems(members: Sequence[zipfile.ZipInfo], archive_size: int) -> list[str]:
    problems, seen = [], set()
    for info in members:
        parts = PurePosixPath(info.filename).parts
        # orig_filename, because zipfile cuts `filename` at a NUL byte.
        name = info.orig_filename
        if not parts or parts[0] == "/" or ".." in parts or "\\" in name or "\0" in name or ":" in parts[0]:
            problems.append(f"{name!r} points outside the folder")
        mode = stat.S_IFMT(info.external_attr >> 16)
        if mode not in (0, stat.S_IFREG, stat.S_IFDIR):
            problems.append(f"{name!r} is a link or a special file")
        if info.flag_bits & 1:
            problems.append(f"{name!r} is encrypted")
        if info.filename in seen:
            problems.append(f"{name!r} occurs twice")
        seen.add(info.filename)
    total = sum(info.file_size for info in members)
    if total > max(_SMALL_TOTAL, MAX_UNPACK_RATIO * archive_size):
        problems.append(f"{human_size(archive_size)} would extract to {human_size(total)}")
    return problems


def _is_litter(info: zipfile.ZipInfo) -> bool:
    """Whether this is a metadata file of macOS, as in some of COCO's archives."""
    name = PurePosixPath(info.filename).name
    return name == ".DS_Store" or name.startswith("._")


def _member(opened: zipfile.ZipFile, name: str, archive: Path) -> zipfile.ZipInfo:
    try:
        return opened.getinfo(name)
    except KeyError:
        raise TransferError(f"{archive} does not contain {name}.", "Check the manifest.") from None


@contextlib.contextmanager
def _nested(archive: Path, member: str, data_dir: Path) -> Iterator[Path]:
    """Extracts a zip file from a zip file and yields its path. Removes it afterwards; keeps it on failure to resume."""
    path = data_dir / f".{PurePosixPath(member).name}"
    with open_archive(archive) as outer:
        jobs = [_Job(_member(outer, member, archive), path)]
        _write_all(outer, archive, jobs, 1, data_dir, PurePosixPath(member).name)
    yield path
    path.unlink()


def _write_all(
    opened: zipfile.ZipFile, archive: Path, jobs: list[_Job], workers: int, data_dir: Path, what: str
) -> None:
    missing = [job for job in jobs if not _is_complete(job)]
    total, to_write = (sum(job.info.file_size for job in some) for some in (jobs, missing))
    require_free_space(data_dir, to_write, f"Extracting {archive.name}")
    for folder in {job.target.parent for job in missing}:
        folder.mkdir(parents=True, exist_ok=True)
    stop, written = threading.Event(), _Counter(total - to_write)

    def write(batch: list[_Job]) -> None:
        for job in batch:
            if stop.is_set():
                break
            _write(opened, archive, job, stop, written)

    with byte_progress(what, total, start=total - to_write) as show:
        pool = ThreadPoolExecutor(max_workers=max(1, workers))
        try:
            batches = [missing[start : start + _BATCH] for start in range(0, len(missing), _BATCH)]
            pending = {pool.submit(write, batch) for batch in batches}
            while pending:
                done, pending = wait(pending, timeout=0.2, return_when=FIRST_EXCEPTION)
                for future in done:
                    future.result()
                show(written.value)
        finally:
            stop.set()  # after an error or Ctrl-C the other threads stop after their current block
            pool.shutdown(wait=True, cancel_futures=True)


class _Counter:
    """Bytes written so far, by all threads."""

    def __init__(self, start: int) -> None:
        self._lock = threading.Lock()
        self.value = start

    def add(self, count: int) -> None:
        with self._lock:
            self.value += count


def _is_complete(job: _Job) -> bool:
    try:
        found = job.target.stat()
    except FileNotFoundError:
        return False
    return stat.S_ISREG(found.st_mode) and found.st_size == job.info.file_size


def _write(opened: zipfile.ZipFile, archive: Path, job: _Job, stop: threading.Event, written: _Counter) -> None:
    # Always the same name, so that the partial file of a killed run is overwritten.
    partial = job.target.with_name(f".{job.target.name}.partial")
    try:
        # zipfile stops at the declared size and compares the CRC there, so a member cannot exceed the size that was
        # checked before.
        with opened.open(job.info) as source, partial.open("wb") as sink:
            while block := source.read(_BLOCK):
                if stop.is_set():
                    return
                sink.write(block)
                written.add(len(block))
        partial.replace(job.target)
    except _BROKEN as error:
        raise _broken(archive, job, error) from None
    except OSError as error:
        if error.errno is None:  # how bz2 reports damaged data
            raise _broken(archive, job, error) from None
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise TransferError(
                f"{job.target} cannot be written: {error.strerror}.", "Check the data folder."
            ) from error
        raise TransferError(
            f"The disk is full: {job.target} cannot be written.",
            "Free space, then run the same command again to resume.",
        ) from None
    finally:
        partial.unlink(missing_ok=True)


def _broken(archive: Path, job: _Job, error: Exception) -> TransferError:
    return TransferError(
        f"{archive} is broken at {job.info.filename!r}: {one_line(error)}.",
        "Delete the archive and download it again.",
    )
