"""Which pictures records hold, read without the pictures themselves."""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from panoptic_cli import storage
from panoptic_cli.errors import DataError
from panoptic_cli.records import schema
from panoptic_cli.records.tfrecord import record_spans
from panoptic_cli.startup import import_tensorflow

_KEYS = frozenset(
    key.encode()
    for key in (
        *(schema.IMAGE_SOURCE_ID, schema.IMAGE_FILENAME, schema.IMAGE_HEIGHT, schema.IMAGE_WIDTH),
        *(schema.SEGMENT_CATEGORY, schema.OBJECT_LABEL),
    )
)
_LIST = 0x0A  # protobuf: field 1, length-delimited, in Example, Features and their entries


@dataclass(frozen=True, slots=True)
class RecordHeader:
    """What a record says about its picture.

    Attributes:
        path: the record file.
        image_id: the data set's id; an integer if possible.
        file_name: the picture's file name; "" if the record does not say.
        height, width: pixels; 0 if the record does not say.
        categories: ids of the categories of its segments and objects.
    """

    path: str
    image_id: int | str
    file_name: str
    height: int
    width: int
    categories: frozenset[int]


def read_headers(files: Sequence[str], limit: int | None = None) -> list[RecordHeader]:
    """Reads the headers of records in order. Records that cannot be read are left out.

    Local files are skimmed: of a picture's record, some hundred bytes are touched. Remote files are read whole.

    Args:
        files: record files.
        limit: read only this many records; None: all.
    """
    found: list[RecordHeader] = []
    count = 0
    for path in files:
        for parts in _remote(path) if storage.is_remote(path) else _local(Path(path)):
            if count == limit:
                return found
            count += 1
            if (header := _header(path, parts)) is not None:
                found.append(header)
    return found


def _header(path: str, record: bytes) -> RecordHeader | None:
    try:
        features = schema.decode_example(record)
        source_id, file_name = (
            bytes(values[0]).decode(errors="replace") if len(values) else ""
            for values in (features.get(key, []) for key in (schema.IMAGE_SOURCE_ID, schema.IMAGE_FILENAME))
        )
        height, width = (
            int(values[0]) if len(values) else 0
            for values in (features.get(key, []) for key in (schema.IMAGE_HEIGHT, schema.IMAGE_WIDTH))
        )
        ids = {int(i) for key in (schema.SEGMENT_CATEGORY, schema.OBJECT_LABEL) for i in features.get(key, ())}
    except (ValueError, TypeError, IndexError):
        return None
    image_id: int | str = int(source_id) if source_id.isdecimal() else source_id
    return RecordHeader(path, image_id, file_name, height, width, frozenset(ids)) if source_id else None


def _remote(path: str) -> Iterator[bytes]:
    import_tensorflow()
    import tensorflow as tf

    try:
        for record in tf.data.TFRecordDataset(path):
            yield bytes(record.numpy())
    except tf.errors.OpError:
        return  # the evaluation tells what is wrong


def _local(path: Path) -> Iterator[bytes]:
    """Yields each record of a file, reduced to the features of a header."""
    if not path.stat().st_size:
        return
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            for begin, end in record_spans(path):
                yield _skim(data, begin, end)
        except DataError:
            return


def _skim(data: mmap.mmap, begin: int, end: int) -> bytes:
    """Returns a tf.train.Example of some features of the Example between two places, or all of it if it is unusual."""
    try:
        if data[begin] != _LIST:
            return data[begin:end]
        size, place = _varint(data, begin + 1)
        if place + size != end:
            return data[begin:end]
        entries = []
        while place < end:
            if data[place] != _LIST:
                return data[begin:end]
            size, inside = _varint(data, place + 1)
            length, key = _varint(data, inside + 1)
            if data[inside] == _LIST and data[key : key + length] in _KEYS:
                entries.append(data[place : inside + size])
            place = inside + size
    except IndexError:
        return b""
    kept = b"".join(entries)
    return bytes([_LIST]) + _to_varint(len(kept)) + kept


def _varint(data: mmap.mmap, place: int) -> tuple[int, int]:
    """Reads a protobuf integer; also returns the place after it."""
    value = shift = 0
    while True:
        byte = data[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place
        shift += 7


def _to_varint(value: int) -> bytes:
    parts = bytearray()
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes([*parts, value])
