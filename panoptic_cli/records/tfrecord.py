"""TFRecord files without TensorFlow: a writer and a reader of framed, checksummed records.

Each record is: length (uint64, little endian), masked CRC-32C of the length, the bytes, masked CRC-32C of the
bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import google_crc32c

from panoptic_cli.errors import DataError

_HEADER = struct.Struct("<QI")
_FOOTER = struct.Struct("<I")
_BLOCK = 1 << 20
_MASK_DELTA = 0xA282EAD8
_MAX_LENGTH = 1 << 31  # no serialized protobuf message can be longer; a larger length means a corrupt file


def masked_crc32c(data: bytes) -> int:
    """Returns TFRecord's masked CRC-32C: rotated right by 15 bits, plus a constant, modulo 2^32."""
    crc = int(google_crc32c.value(data))
    return (((crc >> 15) | (crc << 17)) + _MASK_DELTA) & 0xFFFFFFFF


def file_crc32c(path: Path) -> int:
    """Returns the CRC-32C of a file's bytes: what storage services keep, too, and 25 times as fast as SHA-256."""
    crc = 0
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            crc = google_crc32c.extend(crc, block)
    return crc


class TFRecordWriter:
    """Writes records to a file, keeping count and checksum. Use as a context manager.

    Attributes:
        records: how many were written.
        bytes: how many bytes the file has so far.
        crc32c: CRC-32C of the file so far, see file_crc32c.
    """

    def __init__(self, path: Path) -> None:
        self._stream = path.open("wb")
        self.records = 0
        self.bytes = 0
        self.crc32c = 0

    def write(self, record: bytes) -> None:
        """Appends one record."""
        length = struct.pack("<Q", len(record))
        framing = _FOOTER.pack(masked_crc32c(record))
        for part in (length, _FOOTER.pack(masked_crc32c(length)), record, framing):
            self._stream.write(part)
            self.crc32c = google_crc32c.extend(self.crc32c, part)
            self.bytes += len(part)
        self.records += 1

    def close(self) -> None:
        """Flushes and closes the file."""
        self._stream.close()

    def __enter__(self) -> TFRecordWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_records(path: Path) -> Iterator[bytes]:
    """Yields the records of a file in order, verifying both checksums of each.

    Raises:
        DataError: the file cannot be read, ends inside a record or a checksum does not match; names file,
            record and byte offset.
    """
    try:
        stream = path.open("rb")
    except OSError as error:
        raise DataError(f"The record file {path} cannot be read: {error.strerror}.", "Check the path.") from None
    with stream:
        offset = 0
        index = 0
        while header := stream.read(_HEADER.size):
            where = f"{path}, record {index} at byte {offset}"
            if len(header) < _HEADER.size:
                raise _corrupt(where, "the file ends inside a record")
            length, length_crc = _HEADER.unpack(header)
            if masked_crc32c(header[:8]) != length_crc or length > _MAX_LENGTH:
                raise _corrupt(where, "the checksum of the record's length does not match")
            body = stream.read(length + _FOOTER.size)
            if len(body) < length + _FOOTER.size:
                raise _corrupt(where, "the file ends inside a record")
            record = body[:length]
            if masked_crc32c(record) != _FOOTER.unpack(body[length:])[0]:
                raise _corrupt(where, "the checksum of the record's bytes does not match")
            yield record
            offset += _HEADER.size + len(body)
            index += 1


def _corrupt(where: str, reason: str) -> DataError:
    return DataError(f"{where}: {reason}.", "The file is damaged or no TFRecord: write or copy it again.")
