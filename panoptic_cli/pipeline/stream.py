"""The order in which records are read: shuffling, several workers, and where a run goes on."""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from panoptic_cli.errors import DataError
from panoptic_cli.records import schema
from panoptic_cli.records.tfrecord import masked_crc32c

_INTERLEAVED_FILES = 16
_READ_BUFFER = 1 << 20  # bytes of a shard that are read at once
_HEADER = struct.Struct("<QI")  # of a record: length and its checksum
_FOOTER_SIZE = 4


def record_files(pattern: str) -> list[str]:
    """Finds the shards of a pattern.

    Args:
        pattern: glob patterns, several with commas; local or gs://.

    Returns:
        The paths, sorted.

    Raises:
        DataError: a pattern matches nothing.
    """
    files: list[str] = []
    for part in (p.strip() for p in pattern.split(",")):
        try:
            found = tf.io.gfile.glob(part) if part else []
        except tf.errors.OpError as error:
            raise DataError(f"The records {part} cannot be listed: {error.message}") from None
        found = [path for path in found if schema.is_shard(path)]
        if not found:
            raise DataError(
                f"No records match '{part}'.",
                "Make them with: panoptic make-tfrecords, or correct the pattern.",
            )
        files.extend(found)
    return sorted(set(files))


def count_records(files: Sequence[str]) -> list[int]:
    """Counts the records of each shard; of local ones by their lengths alone, which takes a moment.

    Args:
        files: paths, local or gs://.

    Returns:
        The counts in the order of `files`.

    Raises:
        DataError: a shard is cut short or broken.
    """
    return [_count_remote(path) if "://" in path else _count_local(path) for path in files]


def _count_local(path: str) -> int:
    count = offset = 0
    try:
        with open(path, "rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            while offset < size:
                header = stream.read(_HEADER.size)
                whole = len(header) == _HEADER.size
                length, checksum = _HEADER.unpack(header) if whole else (0, 0)
                offset += _HEADER.size + length + _FOOTER_SIZE
                if not whole or masked_crc32c(header[:8]) != checksum or offset > size:
                    raise DataError(f"Record {count} of {path} cannot be read: the file is damaged or cut short.")
                stream.seek(offset)
                count += 1
    except OSError as error:
        raise DataError(f"The records {path} cannot be read: {error.strerror}.") from None
    return count


def _count_remote(path: str) -> int:
    try:
        return int(read_shard(path).reduce(np.int64(0), lambda total, *_: total + 1))
    except tf.errors.OpError as error:
        raise DataError(f"The records {path} cannot be read: {error.message}.", "Make them again.") from None


def read_shard(path: str | tf.Tensor) -> tf.data.Dataset:
    """The records of a shard in order: (path, 0-based index, bytes)."""
    # Zipped, because calling a function for every record would take twice as long as reading it.
    shard = tf.data.TFRecordDataset(path, buffer_size=_READ_BUFFER)
    return tf.data.Dataset.zip(tf.data.Dataset.from_tensors(path).repeat(), tf.data.Dataset.counter(), shard)


class TrainingStream:
    """The endless stream of shuffled records.

    The order is a function of (seed, epoch): in every epoch the shards are read in another order, and what they hold
    is shuffled block by block. Each epoch has each record once.

    Args:
        files: the shards.
        seed: of the order.
        buffer_size: records that may be in memory at a time.
    """

    def __init__(self, files: Sequence[str], seed: int, buffer_size: int) -> None:
        self._files = list(files)
        self._seed = seed
        # Two blocks are in memory at a time: the one being handed out and the one being read.
        self._block_size = max(1, buffer_size // 2)

    def records(self, start: int = 0) -> tf.data.Dataset:
        """The stream from one of its records on.

        Args:
            start: how many records to leave out.

        Returns:
            (place, (path, index, record)): int64 place in the stream, string path of the shard, int64 0-based index
            in it, and the bytes.

        Raises:
            DataError: there are no records.
        """
        epoch, skipped = self._position(start)
        places = tf.data.Dataset.counter(start)
        return tf.data.Dataset.zip(places, tf.data.Dataset.counter(epoch).flat_map(self._epoch).skip(skipped))

    def _position(self, start: int) -> tuple[int, int]:
        """(epoch, records of it that are left out) of a place in the stream."""
        if start == 0 and any(tf.io.gfile.stat(path).length for path in self._files):
            return 0, 0
        count = sum(count_records(self._files))
        if not count:
            raise DataError(f"The records {self._files[0]} ... hold no pictures.", "Make them again.")
        return divmod(start, count)

    def _epoch_seed(self, epoch: tf.Tensor) -> tf.Tensor:
        return tf.stack([tf.constant(self._seed, tf.int64), epoch])

    def _epoch(self, epoch: tf.Tensor) -> tf.data.Dataset:
        paths = tf.random.experimental.stateless_shuffle(tf.constant(self._files), self._epoch_seed(epoch))
        in_order = tf.data.Dataset.from_tensor_slices(paths).interleave(
            read_shard,
            cycle_length=min(_INTERLEAVED_FILES, len(self._files)),
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )

        # Shuffled block by block and without state, unlike Dataset.shuffle, whose order cannot depend on the epoch's
        # number and could be taken up again only by reading everything before.
        def shuffle(block: tf.Tensor, columns: tuple[tf.Tensor, ...]) -> tuple[tf.Tensor, ...]:
            order = tf.random.experimental.stateless_shuffle(
                tf.range(tf.shape(columns[0])[0]), self._epoch_seed(epoch) + tf.stack([0, block])
            )
            return tuple(tf.gather(column, order) for column in columns)

        return in_order.batch(self._block_size).prefetch(1).enumerate(1).map(shuffle).unbatch()
