"""The cache: copies of published checkpoints from Cloud Storage, each whole or absent, used without a network.

    <cache>/NAME/                a checkpoint's index and data files, and source.json: where they came from
    <cache>/.NAME.partial/       what an interrupted fetch left; the next one continues it
    <cache>/.NAME.lock           held while NAME is fetched: of several processes one fetches and the others wait

A copy that was put there by hand needs only the checkpoint's files. Checkpoints of Hugging Face are not here: the
library huggingface_hub keeps them in a cache of its own (`hub`).
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from panoptic_cli import console, files
from panoptic_cli.errors import DataError, TransferError
from panoptic_cli.interrupts import terminate_as_interrupt
from panoptic_cli.transfer.checksums import checksum
from panoptic_cli.transfer.objects import DiskError, RemoteObject, fetch_object
from panoptic_cli.transfer.progress import byte_progress
from panoptic_cli.transfer.sizes import free_space, human_size
from panoptic_cli.weights.checkpoint_objects import checkpoint_objects, is_whole
from panoptic_cli.weights.published import Published

VARIABLE = "PANOPTIC_CACHE"
_RECEIPT = "source.json"
_POLL = 0.2  # seconds between two looks at the lock of another process


def cache_folder() -> Path:
    """Returns the folder of the cache: PANOPTIC_CACHE, or `panoptic` in the platform's folder of caches."""
    chosen = os.environ.get(VARIABLE)
    if chosen:
        return Path(chosen).expanduser()
    import platformdirs

    return platformdirs.user_cache_path("panoptic", appauthor=False)


def cache_bytes() -> int:
    """Returns the bytes of all files in the cache, unfinished ones included."""
    total = 0
    for folder, _, names in os.walk(cache_folder()):
        for name in names:
            with contextlib.suppress(OSError):  # another process may have renamed it
                total += os.lstat(os.path.join(folder, name)).st_size
    return total


def place_of(published: Published) -> Path:
    """Returns the folder of a checkpoint's copy, which need not exist."""
    return cache_folder() / published.name


def cached_prefix(published: Published) -> str | None:
    """Returns the prefix of a checkpoint's copy in the cache, None if there is no whole one."""
    folder = place_of(published)
    receipt = _read_receipt(folder)
    if receipt is not None:
        sizes = {name: file["bytes"] for name, file in receipt["files"].items()}
        if receipt["source"] != published.source or any(_size(folder / name) != size for name, size in sizes.items()):
            return None
    found = sorted(path.name.removesuffix(".index") for path in folder.glob("*.index"))
    whole = [name for name in found if is_whole(name, [path.name for path in folder.iterdir()])]
    return str(folder / whole[-1]) if whole else None


def cached_bytes(published: Published) -> int:
    """Returns the bytes of a checkpoint's copy."""
    return sum(path.stat().st_size for path in place_of(published).glob("*") if path.is_file())


def fetch_published(published: Published) -> str:
    """Returns the prefix of a checkpoint's copy in the cache, after fetching it if there is none.

    Args:
        published: a checkpoint whose source is gs://.

    Raises:
        TransferError: it cannot be fetched; the hint says where to put a copy.
        KeyboardInterrupt: on Ctrl-C, SIGTERM or SIGHUP; the next fetch continues.
    """
    prefix = cached_prefix(published)
    if prefix is not None:
        return prefix
    folder = place_of(published)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _only_process(folder, published.name), terminate_as_interrupt():
            prefix = cached_prefix(published)  # another process may have fetched it meanwhile
            if prefix is None:
                _fetch(published, folder)
    except OSError as error:
        raise DataError(
            f"The cache {folder.parent} cannot be written: {error.strerror}.", f"{VARIABLE} chooses another folder."
        ) from None
    prefix = prefix or cached_prefix(published)
    assert prefix is not None
    return prefix


@contextlib.contextmanager
def _only_process(folder: Path, name: str) -> Iterator[None]:
    import filelock

    lock = filelock.FileLock(folder.with_name(f".{folder.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        console.info(f"Another process is fetching {name}. Waiting for it.")
        lock.acquire(poll_interval=_POLL)
    try:
        yield
    finally:
        lock.release()


def _fetch(published: Published, folder: Path) -> None:
    """Fetches a checkpoint into the folder, which exists only when everything has arrived and was checked."""
    if folder.exists():
        console.warn(f"The copy in {folder} is not that of {published.source}, or not whole: fetching it again.")
    partial = folder.with_name(f".{folder.name}.partial")
    try:
        items = checkpoint_objects(published)
        _require_space(sum(item.size for item in items.values()), partial, published)
        partial.mkdir(exist_ok=True)
        for path in partial.iterdir():  # of another version of the checkpoint
            if path.name.removesuffix(".part") not in items:
                files.remove(path)
        _fetch_all(items, partial, published)
        _write_receipt(items, partial, published)
        files.remove(folder)
        partial.rename(folder)
    except DiskError as error:
        files.remove(partial)  # it would keep the disk full
        raise TransferError(error.message, f"Free some space, or choose another folder with {VARIABLE}.") from None
    except TransferError as error:
        raise TransferError(
            f"{published.name} is not in the cache, and {published.source} cannot be fetched. {error.message}",
            f"{error.hint} Or put a copy of its files (*.index, *.data-*) into {folder}.",
        ) from None


def _require_space(needed: int, folder: Path, published: Published) -> None:
    free = free_space(folder)
    if needed > free:
        raise DiskError(
            f"{published.name} has {human_size(needed)}, but only {human_size(free)} are free in {folder.parent}."
        )


def _fetch_all(items: dict[str, RemoteObject], folder: Path, published: Published) -> None:
    total, done = sum(item.size for item in items.values()), 0
    console.info(f"Fetching {published.name} ({human_size(total)}) from {published.source} into {folder.parent}.")
    with byte_progress(f"Fetching {published.name}", total) as show:
        for name, item in items.items():
            if _size(folder / name) is None or checksum(folder / name) != (item.size, item.crc32c):
                fetch_object(item, folder / name, lambda count, before=done: show(before + count))  # type: ignore[misc]
            done += item.size
            show(done)
    _compare(items, folder, published)


def _compare(items: dict[str, RemoteObject], folder: Path, published: Published) -> None:
    """Compares the files with what the table of published checkpoints says about them."""
    import hashlib

    for file in published.files:
        path = folder / file.name
        problem = None
        if file.name not in items or (file.bytes is not None and file.bytes != items[file.name].size):
            problem = "is missing or has another size"
        elif file.sha256 is not None:
            with path.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            problem = None if digest == file.sha256 else "has another SHA-256"
        if problem:
            files.remove(folder)
            raise TransferError(
                f"{file.name} {problem} than the published {published.name} has.",
                "The source has changed: a newer version of panoptic may know it.",
            )


def _write_receipt(items: dict[str, RemoteObject], folder: Path, published: Published) -> None:
    described = {name: {"bytes": item.size, "crc32c": item.crc32c} for name, item in items.items()}
    files.write_json(folder / _RECEIPT, {"source": published.source, "files": described})


def _read_receipt(folder: Path) -> dict[str, Any] | None:
    """Returns what a fetch wrote about the files, None if they were put there by hand."""
    try:
        value = json.loads((folder / _RECEIPT).read_text(encoding="utf-8"))
        return value if {"source", "files"} <= value.keys() else None
    except (OSError, ValueError, AttributeError):
        return None


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None
