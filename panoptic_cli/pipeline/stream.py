"""The order in which training reads records: shuffled, repeatable, and resumable at any record."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from panoptic_cli.errors import DataError, listed
from panoptic_cli.records.files import count_records

_INTERLEAVED_FILES = 16
_READ_BUFFER = 1 << 20  # bytes of a shard that are read at once


def read_shard(path: str | tf.Tensor) -> tf.data.Dataset:
    """Reads the records of a shard in order: (string path, int64 0-based index, bytes)."""
    # Zipped, because a function call for every record would take twice as long as reading it.
    shard = tf.data.TFRecordDataset(path, buffer_size=_READ_BUFFER)
    return tf.data.Dataset.zip(tf.data.Dataset.from_tensors(path).repeat(), tf.data.Dataset.counter(), shard)


class TrainingStream:
    """The endless stream of shuffled records.

    The order is a function of (seed, epoch). Every epoch reads the shards in another order, shuffles their records
    block by block, and has each record once.

    Args:
        files: the shards.
        seed: seed of the order.
        buffer_size: number of records that may be in memory at a time.
    """

    def __init__(self, files: Sequence[str], seed: int, buffer_size: int) -> None:
        self._files = list(files)
        self._seed = seed
        # Two blocks are in memory at a time: one is handed out while the other is read.
        self._block_size = max(1, buffer_size // 2)

    def records(self, start: int = 0) -> tf.data.Dataset:
        """Reads the stream from one of its records on.

        Args:
            start: number of records to skip.

        Returns:
            (place, (path, index, record)): int64 place in the stream, string path of the shard, int64 0-based index
            in the shard, and the bytes.

        Raises:
            DataError: the shards contain no records.
        """
        epoch, skipped = self._position(start)
        places = tf.data.Dataset.counter(start)
        return tf.data.Dataset.zip(places, tf.data.Dataset.counter(epoch).flat_map(self._epoch).skip(skipped))

    def _position(self, start: int) -> tuple[int, int]:
        """Returns (epoch, number of its records to skip) for a place in the stream."""
        if start == 0 and any(tf.io.gfile.stat(path).length for path in self._files):
            return 0, 0
        count = sum(count_records(self._files))
        if not count:
            raise DataError(f"The records {listed(self._files, 1)} contain no pictures.", "Make them again.")
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

        # Shuffled block by block and without state. The order of Dataset.shuffle cannot depend on the epoch's number,
        # and resuming it would mean reading everything before.
        def shuffle(block: tf.Tensor, columns: tuple[tf.Tensor, ...]) -> tuple[tf.Tensor, ...]:
            order = tf.random.experimental.stateless_shuffle(
                tf.range(tf.shape(columns[0])[0]), self._epoch_seed(epoch) + tf.stack([0, block])
            )
            return tuple(tf.gather(column, order) for column in columns)

        return in_order.batch(self._block_size).prefetch(1).enumerate(1).map(shuffle).unbatch()
