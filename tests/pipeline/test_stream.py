"""The order of records: each once an epoch, and resumed where a run stopped."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from panoptic_cli.errors import DataError
from panoptic_cli.pipeline.stream import TrainingStream
from panoptic_cli.records.tfrecord import TFRecordWriter

COUNTS = (7, 0, 11, 4, 9)


def shards(folder: Path, counts: tuple[int, ...] = COUNTS) -> list[str]:
    for number, count in enumerate(counts):
        with TFRecordWriter(folder / f"part-{number}.tfrecord") as writer:
            for index in range(count):
                writer.write(f"{number}/{index}".encode())
    return [str(path) for path in sorted(folder.glob("part-*"))]


def read(stream: TrainingStream, count: int, start: int = 0) -> list[bytes]:
    found = []
    for _, (path, index, record) in stream.records(start).take(count).as_numpy_iterator():
        # every record comes with the shard and index that are written in it
        assert record == f"{Path(path.decode()).stem.split('-')[1]}/{index}".encode()
        found.append(record)
    return found


def test_every_epoch_has_each_record_once_in_another_order(tmp_path: Path) -> None:
    whole = read(TrainingStream(shards(tmp_path), 3, 8), 2 * sum(COUNTS))
    first, second = whole[: sum(COUNTS)], whole[sum(COUNTS) :]
    assert len(set(first)) == sum(COUNTS)
    assert sorted(first) == sorted(second)
    assert first != second


def test_records_come_with_their_places_in_the_stream(tmp_path: Path) -> None:
    records = TrainingStream(shards(tmp_path), 3, 8).records(5).take(40)
    assert [place for place, *_ in records.as_numpy_iterator()] == list(range(5, 45))


def test_a_stream_resumes_at_any_record(tmp_path: Path) -> None:
    files = shards(tmp_path)
    whole = read(TrainingStream(files, 5, 8), 80)
    assert max(Counter(whole).values()) > 1  # several epochs
    for start in (7, 31, 75):
        assert read(TrainingStream(files, 5, 8), 80 - start, start) == whole[start:]
    assert read(TrainingStream(files, 6, 8), 80) != whole


def test_threads_and_block_sizes_lose_no_records(tmp_path: Path) -> None:
    files = shards(tmp_path)
    for buffer in (1, 5, 10_000):
        stream = TrainingStream(files, 5, buffer)
        assert sorted(read(stream, 31)) == sorted(f"{n}/{i}".encode() for n, c in enumerate(COUNTS) for i in range(c))
        options = tf.data.Options()
        options.threading.private_threadpool_size = 1
        alone = [record for _, (_, _, record) in stream.records().with_options(options).take(62).as_numpy_iterator()]
        assert alone == read(stream, 62)


def test_the_buffer_size_bounds_how_far_ahead_records_are_read(tmp_path: Path) -> None:
    files = shards(tmp_path, (1000,))
    ahead = [int(record.split(b"/")[1]) for record in read(TrainingStream(files, 0, 20), 100)]
    assert all(max(ahead[: n + 1]) < (n // 10 + 1) * 10 for n in range(100))
    assert np.any(np.diff(ahead) < 0)


def test_shards_without_records_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="contain no pictures"):
        TrainingStream(shards(tmp_path, (0, 0)), 0, 8).records()
