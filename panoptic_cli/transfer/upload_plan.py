"""Plan an upload: which files to send, and which objects already exist."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from panoptic_cli import console
from panoptic_cli.errors import DataError, UsageError
from panoptic_cli.transfer.checksums import checksum
from panoptic_cli.transfer.progress import byte_progress
from panoptic_cli.transfer.storage_errors import as_transfer_error

Action = Literal["upload", "replace", "unchanged"]


@dataclass(frozen=True)
class Destination:
    """A location in a bucket.

    Attributes:
        bucket: the bucket's name.
        prefix: the start of the object names: empty, or ends with "/".
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
        crc32c: base64 of the big-endian CRC32C, in Cloud Storage's format.
        action: upload (a new object), replace (the object has other content), or unchanged.
    """

    path: Path
    name: str
    size: int
    crc32c: str
    action: Action = "upload"


def parse_destination(url: str) -> Destination:
    """Parses gs://BUCKET/PREFIX.

    Raises:
        UsageError: the URL does not have this form.
    """
    bucket, _, prefix = url.removeprefix("gs://").partition("/")
    if not url.startswith("gs://") or not bucket or prefix.startswith("/") or "//" in prefix:
        raise UsageError(f"'{url}' is not a Cloud Storage location.", "Give it as gs://BUCKET/PREFIX.")
    return Destination(bucket, prefix.rstrip("/") + "/" if prefix.strip("/") else "")


def list_files(source: Path, *, hidden: bool = False, links: bool = False) -> list[Path]:
    """Returns the files to send, sorted. Prints a note with the number of skipped files and folders.

    Args:
        source: a file, or a folder, which includes its subfolders.
        hidden: whether to include files and folders whose names start with a dot.
        links: whether to follow symbolic links. Each folder is included once.

    Raises:
        DataError: the source does not exist or has nothing to send.
    """
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise DataError(f"{source} does not exist.", "Create the records first: panoptic make-tfrecords.")

    def is_included(path: Path) -> bool:
        return (hidden or not path.name.startswith(".")) and (links or not path.is_symlink())

    found, skipped, seen = [], 0, {source.resolve()}
    for folder, subfolders, names in os.walk(source, followlinks=links):
        here = Path(folder)
        included = [name for name in subfolders if is_included(here / name)]
        skipped += len(subfolders) - len(included)
        # A link to a parent folder would never end.
        subfolders[:] = [name for name in included if not links or (here / name).resolve() not in seen]
        if links:
            seen.update((here / name).resolve() for name in subfolders)
        for name in names:
            path = here / name
            if is_included(path) and path.is_file():
                found.append(path)
            else:
                skipped += 1
    if skipped:
        console.info(f"Skipped {skipped:,} hidden or linked files and folders in {source}.")
    if not found:
        raise DataError(f"{source} contains nothing to upload.", "Create the records first: panoptic make-tfrecords.")
    return sorted(found)


def plan_uploads(bucket: Any, paths: list[Path], root: Path, destination: Destination) -> list[Upload]:
    """Compares local files with the objects in the bucket. Reads every file once for its CRC32C; sends nothing.

    Args:
        bucket: the google.cloud.storage.Bucket of the destination.
        paths: the files, from `list_files`.
        root: the folder that object names are relative to.
        destination: the target.

    Raises:
        DataError: a file cannot be read, or its name is not allowed for an object.
        TransferError: the bucket does not exist, permission or credentials are missing, or there is no answer.
    """
    try:
        blobs = bucket.list_blobs(prefix=destination.prefix)
        existing = {blob.name: (blob.size, blob.crc32c) for blob in blobs}
    except Exception as error:  # `explain` raises errors again that are not from the transport
        raise as_transfer_error(error, destination.bucket) from None
    planned, done = [], 0
    with byte_progress("Reading checksums", sum(path.stat().st_size for path in paths)) as show:
        for path in paths:
            name = _object_name(path, root, destination)
            before = done
            size, crc = checksum(path, lambda count, before=before: show(before + count))  # type: ignore[misc]
            done += size
            action: Action = "upload"
            if name in existing:
                action = "unchanged" if existing[name] == (size, crc) else "replace"
            planned.append(Upload(path, name, size, crc, action))
    return planned


def _object_name(path: Path, root: Path, destination: Destination) -> str:
    name = destination.prefix + path.relative_to(root).as_posix()
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        raise DataError(
            f"The name {str(path)!r} is not UTF-8, which object names must be.", "Rename the file."
        ) from None
    return name
