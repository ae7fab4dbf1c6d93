"""Checksums of files in Cloud Storage's format."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path

import google_crc32c

from panoptic_cli.errors import DataError

_BLOCK = 1 << 20


def checksum(path: Path, report: Callable[[int], None] | None = None) -> tuple[int, str]:
    """Returns a file's size in bytes and its CRC32C in Cloud Storage's format.

    Args:
        path: the file.
        report: called with the bytes read so far.

    Raises:
        DataError: the file cannot be read.
    """
    size, crc = 0, google_crc32c.Checksum()
    try:
        with path.open("rb") as stream:
            while block := stream.read(_BLOCK):
                crc.update(block)
                size += len(block)
                if report is not None:
                    report(size)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.", "Check its permissions.") from None
    return size, base64.b64encode(crc.digest()).decode("ascii")
