"""Upload files to Cloud Storage: in parallel, resumable, with the CRC32C of every object verified."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from panoptic_cli import console
from panoptic_cli.errors import DataError, TransferError, counted, summarize
from panoptic_cli.interrupts import terminate_as_interrupt
from panoptic_cli.transfer.checksums import checksum
from panoptic_cli.transfer.progress import byte_progress
from panoptic_cli.transfer.sizes import human_size
from panoptic_cli.transfer.storage_errors import (
    ChecksumMismatchError,
    FileChangedError,
    as_transfer_error,
    explain,
    is_worth_resending,
)
from panoptic_cli.transfer.upload_plan import Destination, Upload, list_files, plan_uploads

_CHUNK = 32 << 20  # bytes of a resumable request: the memory of a worker, and the loss when a connection drops
_ATTEMPTS = 3  # for a whole object
_LONGEST_PAUSE = 16.0  # seconds between the attempts of one request


@dataclass(frozen=True)
class FailedUpload:
    """A file that did not arrive, what is wrong, and what to do."""

    item: Upload
    message: str
    hint: str


class UploadError(TransferError):
    """Some files did not arrive.

    Attributes:
        failures: the files that did not arrive; all others did.
        files: all files of the upload.
    """

    def __init__(self, failures: list[FailedUpload], files: list[Upload], destination: Destination) -> None:
        problems = [f"{failure.item.path}: {failure.message}" for failure in failures]
        count = sum(item.action != "unchanged" for item in files)
        super().__init__(
            f"{len(failures):,} of {counted(count, 'files')} did not reach {destination} (the others did): "
            f"{summarize(problems, len(problems))}.",
            failures[0].hint,
        )
        self.failures = failures
        self.files = files


@dataclass(frozen=True)
class UploadOutcome:
    """What an upload did, or would do.

    Attributes:
        destination: the target.
        files: all files.
        dry_run: whether nothing was sent.
    """

    destination: Destination
    files: list[Upload]
    dry_run: bool

    @property
    def changed(self) -> list[Upload]:
        """The files that were, or would be, sent."""
        return [item for item in self.files if item.action != "unchanged"]

    def to_json(self) -> dict[str, Any]:
        """Returns values for JSON."""
        sent = [] if self.dry_run else self.changed
        return {
            "dry_run": self.dry_run,
            "destination": str(self.destination),
            "files": [
                {
                    "path": str(item.path),
                    "object": item.name,
                    "bytes": item.size,
                    "crc32c": item.crc32c,
                    "action": item.action,
                }
                for item in self.files
            ],
            "files_sent": len(sent),
            "bytes_sent": sum(item.size for item in sent),
            "files_unchanged": len(self.files) - len(self.changed),
        }


def upload_files(
    source: Path,
    destination: Destination,
    *,
    hidden: bool = False,
    links: bool = False,
    workers: int = 8,
    user_project: str | None = None,
    dry_run: bool = False,
) -> UploadOutcome:
    """Sends the files of a folder that are new or different, and verifies each object's CRC32C.

    Args:
        source: a folder or a file.
        destination: the target.
        hidden: whether to include hidden files and folders.
        links: whether to follow symbolic links.
        workers: number of files sent at the same time.
        user_project: the project that pays for a requester-pays bucket.
        dry_run: compares only and sends nothing.

    Raises:
        DataError: the source does not exist, has nothing to send or cannot be read.
        UploadError: lists every file that did not arrive; the others did.
        TransferError: the bucket does not exist, permission or credentials are missing, or there is no answer.
        KeyboardInterrupt: on Ctrl-C, SIGTERM or SIGHUP, after a message about what arrived.
    """
    paths = list_files(source, hidden=hidden, links=links)
    bucket = make_client().bucket(destination.bucket, user_project=user_project)
    planned = plan_uploads(bucket, paths, source if source.is_dir() else source.parent, destination)
    if not dry_run:
        run_uploads(bucket, planned, destination, workers)
    return UploadOutcome(destination, planned, dry_run)


def make_client() -> Any:
    """Returns a Cloud Storage client with Application Default Credentials.

    Raises:
        TransferError: there are no credentials; the hint says how to get them.
    """
    import google.auth.exceptions
    from google.cloud import storage

    try:
        return storage.Client(project=None)  # uploads need no project, and not every user has set one
    except (google.auth.exceptions.GoogleAuthError, OSError) as error:
        raise as_transfer_error(error, "") from None


def run_uploads(bucket: Any, planned: list[Upload], destination: Destination, workers: int = 8) -> list[Upload]:
    """Sends files that are new or different, several at a time, and verifies each object's CRC32C.

    Large files are sent in resumable requests. A request is repeated with growing pauses after temporary errors; a
    whole object is sent again if it arrives damaged. Cloud Storage knows the checksum in advance and refuses other
    content.

    The client library's transfer_manager makes the same calls, but it reports nothing until all files are done, cannot
    set the checksum of each file, and on Ctrl-C sends everything in its queue first.

    Args:
        bucket: the google.cloud.storage.Bucket of the destination.
        planned: from `plan_uploads`.
        destination: the target.
        workers: number of files sent at the same time.

    Returns:
        The files that were sent.

    Raises:
        UploadError: lists every file that did not arrive; the others did.
        KeyboardInterrupt: on Ctrl-C, SIGTERM or SIGHUP, after a message about what arrived.
    """
    work = [item for item in planned if item.action != "unchanged"]
    stop, sent = threading.Event(), _Counter()
    _prepare_transport(bucket.client, workers, stop)
    arrived: list[Upload] = []
    errors: list[tuple[Upload, BaseException]] = []
    with terminate_as_interrupt(), byte_progress("Uploading", sum(item.size for item in work)) as show:
        show(0, note=f"0/{len(work)} files")
        pool = ThreadPoolExecutor(max_workers=workers)
        try:
            futures = {pool.submit(_send, bucket, item, sent): item for item in work}
            pending = set(futures)
            while pending:
                done, pending = wait(pending, timeout=0.2)
                for future in done:
                    error = future.exception()
                    if error is None:
                        arrived.append(futures[future])
                    else:
                        errors.append((futures[future], error))
                show(sent.value, note=f"{len(arrived)}/{len(work)} files")
        except KeyboardInterrupt:
            stop.set()  # the workers stop after their current request
            size = human_size(sum(item.size for item in arrived))
            console.warn(
                f"stopped. {len(arrived):,} of {counted(len(work), 'files')} ({size}) arrived in {destination} "
                "and were verified. Run the same command again to send the others."
            )
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    if errors:
        failures = [FailedUpload(item, *explain(error, destination.bucket)) for item, error in errors]
        raise UploadError(failures, planned, destination)
    return work


def _prepare_transport(client: Any, workers: int, stop: threading.Event) -> None:
    import requests.adapters

    class Adapter(requests.adapters.HTTPAdapter):
        def send(self, *args: Any, **kwargs: Any) -> Any:
            if stop.is_set():
                raise InterruptedError("stopped")
            return super().send(*args, **kwargs)

    for scheme in ("https://", "http://"):
        # By default requests keeps ten connections and drops the others, with a warning for each.
        client._http.mount(scheme, Adapter(pool_maxsize=max(10, workers)))


def _send(bucket: Any, item: Upload, sent: _Counter) -> None:
    from google.cloud.storage.retry import DEFAULT_RETRY

    retry = DEFAULT_RETRY.with_delay(initial=1.0, maximum=_LONGEST_PAUSE, multiplier=2.0)
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            blob = bucket.blob(item.name, chunk_size=_CHUNK)
            with item.path.open("rb") as stream:
                blob.upload_from_file(
                    _CountedFile(stream, sent, item.name),
                    size=item.size,
                    checksum="crc32c",
                    crc32c_checksum_value=item.crc32c,
                    retry=retry,
                )
            if blob.crc32c != item.crc32c:
                raise ChecksumMismatchError
            sent.reached(item.name, item.size)
            return
        except Exception as error:
            if not is_worth_resending(error):
                raise
            if _has_changed(item):
                raise FileChangedError from None
            if attempt == _ATTEMPTS:
                raise


def _has_changed(item: Upload) -> bool:
    try:
        return checksum(item.path) != (item.size, item.crc32c)
    except DataError:
        return True


class _Counter:
    """Bytes of all files that arrived so far; bytes that are sent again do not count twice."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._furthest: dict[str, int] = {}
        self.value = 0

    def reached(self, name: str, position: int) -> None:
        with self._lock:
            before = self._furthest.get(name, 0)
            if position > before:
                self._furthest[name] = position
                self.value += position - before


class _CountedFile:
    """A file that counts the bytes sent. A block counts as sent when the client reads the next one."""

    def __init__(self, stream: IO[bytes], counter: _Counter, name: str) -> None:
        self._stream = stream
        self._counter = counter
        self._name = name
        self.tell, self.seek = stream.tell, stream.seek

    def read(self, size: int = -1) -> bytes:
        self._counter.reached(self._name, self._stream.tell())
        return self._stream.read(size)
