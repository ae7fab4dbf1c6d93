"""Uploads to Cloud Storage: parallel, verified by CRC32C, objects that are already there left alone."""

from __future__ import annotations

import base64
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import google_crc32c

from panoptic_cli import console
from panoptic_cli.errors import DataError, TransferError, UsageError, summarize
from panoptic_cli.transfer.storage_errors import ChecksumMismatchError, as_transfer_error, describe

MAX_WORKERS = 64
_MB = 10**6
_CHUNK = 32 << 20  # bytes of one resumable request, a multiple of 256 KiB; a retry sends at most this again
Action = Literal["upload", "replace", "unchanged"]


@dataclass(frozen=True)
class Destination:
    """A place in a bucket.

    Attributes:
        bucket: the bucket's name.
        prefix: what object names start with: empty, or ends with "/".
    """

    bucket: str
    prefix: str

    def __str__(self) -> str:
        return f"gs://{self.bucket}/{self.prefix}"


@dataclass(frozen=True)
class Upload:
    """One file and its object.

    Attributes:
        path: the local file.
        name: the object's name.
        size: bytes.
        crc32c: base64 of the big-endian CRC32C, as Cloud Storage writes it.
        action: upload (new), replace (other content there), or unchanged.
    """

    path: Path
    name: str
    size: int
    crc32c: str
    action: Action = "upload"


def parse_destination(url: str) -> Destination:
    """Reads gs://BUCKET/PREFIX.

    Raises:
        UsageError: it is not of that form.
    """
    bucket, _, prefix = url.removeprefix("gs://").partition("/")
    if not url.startswith("gs://") or not bucket or prefix.startswith("/") or "//" in prefix:
        raise UsageError(f"'{url}' is not a Cloud Storage place.", "Give it as gs://BUCKET/PREFIX.")
    return Destination(bucket, prefix.rstrip("/") + "/" if prefix.strip("/") else "")


def list_files(source: Path) -> list[Path]:
    """Returns the files to send, sorted; hidden ones and symbolic links are left out and counted in a note.

    Args:
        source: a folder, taken with all below it, or one file.

    Raises:
        DataError: it does not exist or holds nothing to send.
    """
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise DataError(f"{source} does not exist.", "Make the records first: panoptic make-tfrecords.")
    found, left_out = [], 0
    for folder, subfolders, names in os.walk(source):
        here = Path(folder)
        skipped = [name for name in subfolders if _is_skipped(here / name)]
        left_out += len(skipped)
        subfolders[:] = [name for name in subfolders if name not in skipped]
        for name in names:
            path = here / name
            if _is_skipped(path) or not path.is_file():
                left_out += 1
            else:
                found.append(path)
    if left_out:
        console.info(f"Left out {left_out:,} hidden or linked files and folders in {source}")
    if not found:
        raise DataError(f"{source} holds nothing to upload.", "Make the records first: panoptic make-tfrecords.")
    return sorted(found)


def make_client() -> Any:
    """Returns a Cloud Storage client with Application Default Credentials.

    Raises:
        TransferError: there are none; says how to get them.
    """
    import google.auth.exceptions
    from google.cloud import storage

    try:
        return storage.Client(project=None)  # uploads need none, and not everybody has set one
    except (google.auth.exceptions.GoogleAuthError, OSError) as error:
        raise as_transfer_error(error, "") from None


def plan_uploads(client: Any, paths: list[Path], root: Path, destination: Destination) -> list[Upload]:
    """Compares what is here with what is there. Reads every file once for its CRC32C; sends nothing.

    Args:
        client: a google.cloud.storage.Client.
        paths: the files, from `list_files`.
        root: the folder that object names are relative to.
        destination: where to.

    Raises:
        DataError: a file cannot be read.
        TransferError: no such bucket, no permission, no credentials, or no answer.
    """
    try:
        blobs = client.list_blobs(destination.bucket, prefix=destination.prefix)
        there = {blob.name: (blob.size, blob.crc32c) for blob in blobs}
    except Exception as error:  # whatever the transport raises: described, or raised again when it is not one of its
        raise as_transfer_error(error, destination.bucket) from None
    planned = []
    total = sum(path.stat().st_size for path in paths)
    with console.progress("Reading checksums", round(total / _MB), "MB") as advance:
        add = _in_megabytes(advance)
        for path in paths:
            name = destination.prefix + path.relative_to(root).as_posix()
            size, crc = _checksum(path, add)
            action: Action = "upload"
            if name in there:
                action = "unchanged" if there[name] == (size, crc) else "replace"
            planned.append(Upload(path, name, size, crc, action))
    return planned


def run_uploads(client: Any, planned: list[Upload], destination: Destination, workers: int = 8) -> list[Upload]:
    """Sends what is new or different, several files at a time, and verifies each object's CRC32C.

    Large files go in resumable requests; every request is tried again with growing pauses on passing faults.

    Args:
        client: a google.cloud.storage.Client.
        planned: from `plan_uploads`.
        destination: where to.
        workers: files under way at once.

    Returns:
        What was sent.

    Raises:
        TransferError: lists every file that did not arrive; the others did.
    """
    import requests.adapters

    work = [item for item in planned if item.action != "unchanged"]
    bucket = client.bucket(destination.bucket)
    # requests keeps ten connections by default and throws the others away, with a warning for each.
    for scheme in ("https://", "http://"):
        client._http.mount(scheme, requests.adapters.HTTPAdapter(pool_maxsize=max(10, workers)))
    sent = _Counter()
    failures: list[tuple[Upload, BaseException]] = []
    with console.progress("Uploading", round(sum(item.size for item in work) / _MB), "MB") as advance:
        add, shown, finished = _in_megabytes(advance), 0, 0
        pool = ThreadPoolExecutor(max_workers=workers)
        try:
            futures = {pool.submit(_send, bucket, item, sent): item for item in work}
            pending = set(futures)
            while pending:
                done, pending = wait(pending, timeout=0.2)
                for future in done:
                    finished += 1
                    error = future.exception()
                    if error is not None:
                        failures.append((futures[future], error))
                now = sent.value
                add(now - shown, f"{finished}/{len(work)} files")
                shown = now
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    if failures:
        described = [(item, *describe(error, destination.bucket)) for item, error in failures]
        raise TransferError(
            f"{len(failures)} of {len(work)} files did not reach {destination} (the others did): "
            + summarize([f"{item.path}: {message}" for item, message, _ in described])
            + ".",
            described[0][2],
        )
    return work


def _send(bucket: Any, item: Upload, sent: _Counter) -> None:
    blob = bucket.blob(item.name, chunk_size=_CHUNK)
    with item.path.open("rb") as stream:
        blob.upload_from_file(_CountedFile(stream, sent), size=item.size, checksum="crc32c")
    if blob.crc32c != item.crc32c:
        raise ChecksumMismatchError(item.name)


class _Counter:
    """Bytes handed over so far, by all threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.value = 0

    def add(self, count: int) -> None:
        with self._lock:
            self.value += count


class _CountedFile:
    """A file that counts what is read; what a retry reads again does not count twice."""

    def __init__(self, stream: IO[bytes], counter: _Counter) -> None:
        self._stream = stream
        self._counter = counter
        self._furthest = 0
        self.tell, self.seek = stream.tell, stream.seek

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        position = self._stream.tell()
        if position > self._furthest:
            self._counter.add(position - self._furthest)
            self._furthest = position
        return data


def _is_skipped(path: Path) -> bool:
    return path.name.startswith(".") or path.is_symlink()


def _checksum(path: Path, add: Callable[[int], None]) -> tuple[int, str]:
    size, checksum = 0, google_crc32c.Checksum()
    try:
        with path.open("rb") as stream:
            while block := stream.read(1 << 20):
                checksum.update(block)
                size += len(block)
                add(len(block))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.", "Check its permissions.") from None
    return size, base64.b64encode(checksum.digest()).decode("ascii")


def _in_megabytes(advance: Callable[..., None]) -> Callable[..., None]:
    """Feeds a progress display that counts whole megabytes from counts of bytes."""
    total = shown = 0

    def add(count: int, note: str | None = None) -> None:
        nonlocal total, shown
        total += count
        now = round(total / _MB)
        advance(now - shown, note)
        shown = now

    return add
