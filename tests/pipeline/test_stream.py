"""The order of records: every one once an epoch, and going on where a run stopped."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from panoptic_cli.errors import DataError
from panoptic_cli.pipeline.stream import TrainingStream, count_records, record_files
from panoptic_cli.records.tfrecord import TFRecordWriter

COUNTS = (7, 0, 11, 4, 9)


def shards(folder: Path, counts: tuple[int, ...] = COUNTS) -> list[str]:
    for number, count in enumerate(counts):
        with TFRecordWriter(folder / f"part-{number}.tfrecord") as writer:
            for index in range(count):
                writer.write(f"{number}/{index}".encode())
    return record_files(f"{folder}/part-*")


def read(stream: TrainingStream, count: int, start: int = 0) -> list[bytes]:
    found = []
    for _, (path, index, record) in stream.records(start).take(count).as_numpy_iterator():
        # every record comes with its true place
        assert record == f"{Path(path.decode()).stem.split('-')[1]}/{index}".encode()
        found.append(record)
    return found


def test_counts_are_read_from_the_lengths(tmp_path: Path) -> None:
    files = shards(tmp_path)
    assert count_records(files) == list(COUNTS)
    whole = Path(files[2]).read_bytes()
    Path(files[2]).write_bytes(whole[:-3])
    with pytest.raises(DataError, match=r"Record 10 of .*part-2"):
        count_records(files)
    Path(files[2]).write_bytes(whole[:19] + b"\xff" + whole[20:])  # the length of the second record
    with pytest.raises(DataError, match=r"Record 1 of .*part-2"):
        count_records(files)
    with pytest.raises(DataError, match="cannot be read"):
        count_records([str(tmp_path / "nowhere")])


def test_an_epoch_has_every_record_once_in_an_order_of_its_own(tmp_path: Path) -> None:
    whole = read(TrainingStream(shards(tmp_path), 3, 8), 2 * sum(COUNTS))
    first, second = whole[: sum(COUNTS)], whole[sum(COUNTS) :]
    assert len(set(first)) == sum(COUNTS)
    assert sorted(first) == sorted(second)
    assert first != second


def test_places_are_those_of_the_stream(tmp_path: Path) -> None:
    records = TrainingStream(shards(tmp_path), 3, 8).records(5).take(40)
    assert [place for place, *_ in records.as_numpy_iterator()] == list(range(5, 45))


def test_a_stream_goes_on_where_it_stopped(tmp_path: Path) -> None:
    files = shards(tmp_path)
    whole = read(TrainingStream(files, 5, 8), 80)
    assert max(Counter(whole).values()) > 1  # several epochs
    for start in (7, 31, 75):
        assert read(TrainingStream(files, 5, 8), 80 - start, start) == whole[start:]
    assert read(TrainingStream(files, 6, 8), 80) != whole


def test_neither_threads_nor_blocks_lose_records(tmp_path: Path) -> None:
    files = shards(tmp_path)
    for buffer in (1, 5, 10_000):
        stream = TrainingStream(files, 5, buffer)
        assert sorted(read(stream, 31)) == sorted(f"{n}/{i}".encode() for n, c in enumerate(COUNTS) for i in range(c))
        options = tf.data.Options()
        options.threading.private_threadpool_size = 1
        alone = [record for _, (_, _, record) in stream.records().with_options(options).take(62).as_numpy_iterator()]
        assert alone == read(stream, 62)


def test_a_shuffle_block_bounds_how_far_ahead_is_read(tmp_path: Path) -> None:
    files = shards(tmp_path, (1000,))
    ahead = [int(record.split(b"/")[1]) for record in read(TrainingStream(files, 0, 20), 100)]
    assert all(max(ahead[: n + 1]) < (n // 10 + 1) * 10 for n in range(100))
    assert np.any(np.diff(ahead) < 0)


def test_shards_without_records_are_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="hold no pictures"):
        TrainingStream(shards(tmp_path, (0, 0)), 0, 8).records()
