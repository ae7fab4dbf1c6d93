"""Fetch objects of Cloud Storage: public ones without a login, resumed after cuts, verified by CRC32C."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

from panoptic_cli.errors import TransferError
from panoptic_cli.transfer.checksums import checksum
from panoptic_cli.transfer.storage_errors import ChecksumMismatchError, as_transfer_error

_ATTEMPTS = 3  # for a whole object; the client library also repeats each request
_TIMEOUT = 10.0  # seconds without an answer
_PATIENCE = 5.0  # seconds of trying to reach the bucket at all
_PAUSES = (1.0, 16.0)  # the first and the longest one between the attempts of one request, in seconds


class DiskError(TransferError):
    """The file cannot be written: the disk is full, or a limit or a permission forbids it."""


@dataclass(frozen=True)
class RemoteObject:
    """An object in a bucket.

    Attributes:
        name: its name in the bucket.
        size: bytes.
        crc32c: base64 of the big-endian CRC32C.
        blob: the google.cloud.storage.Blob.
    """

    name: str
    size: int
    crc32c: str
    blob: Any


def list_objects(bucket: str, prefix: str, names: tuple[str, ...] = ()) -> list[RemoteObject]:
    """Returns the objects whose names start with a prefix.

    A public bucket may allow everybody to read objects, but not to list them. Then the named objects are asked for.

    Args:
        bucket: the bucket's name.
        prefix: the start of the names.
        names: objects to ask for one by one if the bucket does not list them; those that do not exist are left out.

    Raises:
        TransferError: the bucket does not exist or does not answer, or nobody who is signed in here may read it.
    """
    refused: Exception | None = None
    for client in _clients():
        place = client.bucket(bucket)
        try:
            return [_object(blob) for blob in client.list_blobs(place, prefix=prefix, **_impatient())]
        except Exception as error:  # `explain` raises errors again that are not from the transport
            if not _is_refusal(error):
                raise as_transfer_error(error, bucket, reading=True) from None
            refused = error
            found = list(_ask_for(place, names))
            if found:
                return found
    assert refused is not None
    raise as_transfer_error(refused, bucket, reading=True) from None


def _is_refusal(error: Exception) -> bool:
    import google.api_core.exceptions as api
    import google.auth.exceptions as auth

    # After the answer 401 the library wants to refresh the credentials, which it cannot do for nobody.
    return isinstance(error, auth.InvalidOperation) or getattr(error, "code", None) in (
        api.Unauthorized.code,
        api.Forbidden.code,
    )


def _clients() -> Iterator[Any]:
    """Yields a client without credentials, then one with them: looking for credentials can take seconds."""
    import google.auth.exceptions
    from google.cloud import storage

    yield storage.Client.create_anonymous_client()
    try:
        yield storage.Client(project=None)
    except (google.auth.exceptions.GoogleAuthError, OSError):
        return


def _ask_for(bucket: Any, names: tuple[str, ...]) -> Iterator[RemoteObject]:
    import google.api_core.exceptions as api

    for name in names:
        blob = bucket.blob(name)
        try:
            blob.reload(**_impatient())
        except Exception as error:  # without permission to list, a missing object is refused, too
            if _is_refusal(error) or isinstance(error, api.NotFound):
                continue
            raise as_transfer_error(error, bucket.name, reading=True) from None
        yield _object(blob)


def _object(blob: Any) -> RemoteObject:
    return RemoteObject(blob.name, int(blob.size), blob.crc32c, blob)


def _impatient() -> dict[str, Any]:
    from google.cloud.storage.retry import DEFAULT_RETRY

    return {"timeout": _TIMEOUT, "retry": DEFAULT_RETRY.with_timeout(_PATIENCE)}


def read_object(item: RemoteObject) -> bytes:
    """Returns the content of a small object.

    Raises:
        TransferError: it cannot be read.
    """
    try:
        return bytes(item.blob.download_as_bytes(**_impatient()))
    except Exception as error:
        raise as_transfer_error(error, item.blob.bucket.name, reading=True) from None


def fetch_object(item: RemoteObject, path: Path, report: Callable[[int], None]) -> None:
    """Fetches an object into a file, which exists only when it is whole.

    The bytes arrive in PATH.part. If that exists, it is continued. The whole file's size and CRC32C are compared with
    the object's; a damaged file is fetched again.

    Args:
        item: the object.
        path: the file to write.
        report: called with the bytes that have arrived so far.

    Raises:
        DiskError: the file cannot be written.
        TransferError: the object cannot be read, or arrives damaged several times.
    """
    partial = path.with_name(f"{path.name}.part")
    try:
        for attempt in range(1, _ATTEMPTS + 1):
            start = partial.stat().st_size if partial.exists() else 0
            if start > item.size:
                partial.unlink()
                start = 0
            report(start)
            if start < item.size or not partial.exists():
                with partial.open("ab", buffering=0) as stream:  # nothing is left to write when it is closed
                    _receive(item, _CountedStream(stream, report), start)
            if checksum(partial) == (item.size, item.crc32c):
                partial.replace(path)
                return
            if partial.stat().st_size >= item.size or attempt == _ATTEMPTS:
                partial.unlink()
    except DiskError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.filename is not None:  # errors of the network have none
            raise DiskError(f"{path} cannot be written: {error.strerror}.") from None
        raise as_transfer_error(error, item.blob.bucket.name, reading=True) from None
    raise as_transfer_error(ChecksumMismatchError(), item.blob.bucket.name, reading=True)


def _receive(item: RemoteObject, stream: _CountedStream, start: int) -> None:
    from google.cloud.storage.retry import DEFAULT_RETRY

    retry = DEFAULT_RETRY.with_delay(initial=_PAUSES[0], maximum=_PAUSES[1], multiplier=2.0)
    if item.size:
        item.blob.download_to_file(
            stream,
            start=start or None,
            raw_download=True,  # as stored: CRC32C and size are those of the stored bytes
            checksum=None,  # the caller compares the whole file
            if_generation_match=item.blob.generation,
            retry=retry,
            timeout=60.0,
        )


class _CountedStream:
    """A file that reports its length after each write, and whose errors are told from those of the network."""

    def __init__(self, stream: FileIO, report: Callable[[int], None]) -> None:
        self._stream = stream
        self._report = report
        self.tell, self.seek, self.flush = stream.tell, stream.seek, stream.flush

    def write(self, data: bytes) -> int:
        left = memoryview(data)
        try:
            while left:
                left = left[self._stream.write(left) :]
        except OSError as error:
            raise DiskError(f"{self._stream.name} cannot be written: {error.strerror}.") from None
        self._report(self._stream.tell())
        return len(data)
