from __future__ import annotations

from pathlib import Path

import google_crc32c
import pytest

from panoptic_cli.errors import DataError
from panoptic_cli.records.tfrecord import TFRecordWriter, file_crc32c, masked_crc32c, read_records


def test_masked_crc_of_a_known_value() -> None:
    # CRC-32C of "123456789" is 0xE3069283 (RFC 3720, B.4); rotated by 15 and offset by 0xA282EAD8.
    crc = 0xE3069283
    assert masked_crc32c(b"123456789") == (((crc >> 15) | (crc << 17 & 0xFFFFFFFF)) + 0xA282EAD8) & 0xFFFFFFFF


def _write(path: Path) -> TFRecordWriter:
    with TFRecordWriter(path) as writer:
        for record in (b"first", b"", b"x" * 70000):
            writer.write(record)
    return writer


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.tfrecord"
    writer = _write(path)
    assert list(read_records(path)) == [b"first", b"", b"x" * 70000]
    assert (writer.records, writer.bytes) == (3, path.stat().st_size)
    assert writer.crc32c == file_crc32c(path) == google_crc32c.value(path.read_bytes())


@pytest.mark.parametrize("place", [0, 9, 13, 18, 30, 40, 200])
def test_any_changed_byte_is_found(tmp_path: Path, place: int) -> None:
    path = tmp_path / "a.tfrecord"
    _write(path)
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"a\.tfrecord, record \d at byte \d+: the checksum"):
        list(read_records(path))


@pytest.mark.parametrize("size", [5, 15, 20, 60])
def test_a_cut_file_is_found(tmp_path: Path, size: int) -> None:
    path = tmp_path / "a.tfrecord"
    _write(path)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(DataError, match="ends inside a record"):
        list(read_records(path))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.tfrecord cannot be read"):
        list(read_records(tmp_path / "none.tfrecord"))
