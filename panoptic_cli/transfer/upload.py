"""Uploads to Cloud Storage: several files at a time, resumable, and every object's CRC32C verified."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import IO, Any

from panoptic_cli import console
from panoptic_cli.errors import DataError, TransferError, summarize
from panoptic_cli.interrupts import terminate_as_interrupt
from panoptic_cli.transfer.progress import byte_progress
from panoptic_cli.transfer.sizes import human_size
from panoptic_cli.transfer.storage_errors import (
    ChecksumMismatchError,
    FileChangedError,
    as_transfer_error,
    describe,
    is_worth_resending,
)
from panoptic_cli.transfer.upload_plan import Destination, Upload, checksum

_CHUNK = 32 << 20  # bytes of one resumable request: a worker's memory, and what a dropped connection costs
_ATTEMPTS = 3  # of a whole object
_LONGEST_PAUSE = 16.0  # seconds between tries of one request


@dataclass(frozen=True)
class Failure:
    """A file that did not arrive: what is wrong, and what to do."""

    item: Upload
    message: str
    hint: str


class UploadError(TransferError):
    """Some files did not arrive.

    Attributes:
        failures: those files; all others did.
    """

    def __init__(self, failures: list[Failure], count: int, destination: Destination) -> None:
        problems = [f"{failure.item.path}: {failure.message}" for failure in failures]
        super().__init__(
            f"{len(failures)} of {count} files did not reach {destination} (the others did): "
            f"{summarize(problems, len(problems))}.",
            failures[0].hint,
        )
        self.failures = failures


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


def run_uploads(client: Any, planned: list[Upload], destination: Destination, workers: int = 8) -> list[Upload]:
    """Sends what is new or different, several files at a time, and verifies each object's CRC32C.

    Large files go in resumable requests; every request is tried again with growing pauses on passing faults, and a
    whole object when it arrives damaged. Cloud Storage is told the checksum beforehand and refuses other content.

    The library's own transfer_manager sends through the same calls, but it says nothing before all files have ended,
    cannot be told the checksum of each, and on Ctrl-C first sends what is still queued.

    Args:
        client: a google.cloud.storage.Client.
        planned: from `plan_uploads`.
        destination: where to.
        workers: files under way at once.

    Returns:
        What was sent.

    Raises:
        UploadError: lists every file that did not arrive; the others did.
        KeyboardInterrupt: Ctrl-C, SIGTERM or SIGHUP, after saying what had arrived.
    """
    work = [item for item in planned if item.action != "unchanged"]
    stop, sent = threading.Event(), _Counter()
    _prepare_transport(client, workers, stop)
    bucket = client.bucket(destination.bucket)
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
            stop.set()  # the workers end with the request they are at
            size = human_size(sum(item.size for item in arrived))
            console.warn(
                f"stopped. {len(arrived)} of {len(work)} files ({size}) arrived in {destination} and were verified. "
                "The same command sends the others."
            )
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    if errors:
        failures = [Failure(item, *describe(error, destination.bucket)) for item, error in errors]
        raise UploadError(failures, len(work), destination)
    return work


def _prepare_transport(client: Any, workers: int, stop: threading.Event) -> None:
    import requests.adapters

    class Adapter(requests.adapters.HTTPAdapter):
        def send(self, *args: Any, **kwargs: Any) -> Any:
            if stop.is_set():
                raise InterruptedError("stopped")
            return super().send(*args, **kwargs)

    for scheme in ("https://", "http://"):
        # requests keeps ten connections by default and throws the others away, with a warning for each.
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
    """Bytes that arrived so far, of all files; what is sent again does not count twice."""

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
    """A file that counts: who reads on has delivered what was read before."""

    def __init__(self, stream: IO[bytes], counter: _Counter, name: str) -> None:
        self._stream = stream
        self._counter = counter
        self._name = name
        self.tell, self.seek = stream.tell, stream.seek

    def read(self, size: int = -1) -> bytes:
        self._counter.reached(self._name, self._stream.tell())
        return self._stream.read(size)
