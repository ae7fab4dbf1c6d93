"""Headers of records, read without their pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from panoptic_cli.records import schema
from panoptic_cli.records.files import find_record_files
from panoptic_cli.records.headers import read_headers
from panoptic_cli.records.schema import decode_example, encode_example
from panoptic_cli.records.tfrecord import TFRecordWriter, read_records


def test_headers_are_those_of_the_records(shapes_records: Path) -> None:
    files = find_record_files(f"{shapes_records}/train-*")
    headers = read_headers(files)
    expected = []
    for path in files:
        for record in read_records(Path(path)):
            features = decode_example(record)
            height, width = (int(features[key][0]) for key in (schema.IMAGE_HEIGHT, schema.IMAGE_WIDTH))
            names = (bytes(features[key][0]).decode() for key in (schema.IMAGE_SOURCE_ID, schema.IMAGE_FILENAME))
            categories = {int(i) for i in features[schema.SEGMENT_CATEGORY]}
            expected.append((path, *names, height, width, categories))
    found = [(h.path, str(h.image_id), h.file_name, h.height, h.width, set(h.categories)) for h in headers]
    assert len(found) == 12
    assert found == expected
    assert read_headers(files, limit=5) == headers[:5]


def test_records_that_say_little_or_nothing(tmp_path: Path) -> None:
    path = tmp_path / "some.tfrecord"
    with TFRecordWriter(path) as writer:
        writer.write(encode_example({schema.IMAGE_SOURCE_ID: b"town_1", schema.IMAGE_ENCODED: b"x" * 300}))
        writer.write(b"")
        writer.write(b"\n\xff\xff\xff")
        writer.write(encode_example({schema.OBJECT_LABEL: np.array([5])}))
        writer.write(encode_example({schema.IMAGE_SOURCE_ID: b"7"}))
    with path.open("ab") as stream:
        stream.write(b"cut short")
    (tmp_path / "empty.tfrecord").write_bytes(b"")
    found = read_headers([str(tmp_path / "empty.tfrecord"), str(path)])
    assert [(h.image_id, h.file_name, h.height) for h in found] == [("town_1", "", 0), (7, "", 0)]
