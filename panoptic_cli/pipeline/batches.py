"""The tf.data pipelines: shards -> shuffled records -> augmented pictures with training targets -> batches."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import tensorflow as tf

from panoptic_cli.config.schema import Experiment
from panoptic_cli.errors import PanopticError
from panoptic_cli.pipeline.augmentation import AugmentedPicture, augment
from panoptic_cli.pipeline.parsing import AnnotatedPicture, parse_record
from panoptic_cli.pipeline.preprocessing import Geometry, Preprocessing, Resizing
from panoptic_cli.pipeline.record_errors import dropping, naming, unusable_record
from panoptic_cli.pipeline.stream import TrainingStream
from panoptic_cli.records import schema
from panoptic_cli.records.files import find_record_files
from panoptic_cli.records.tfrecord import read_whole_records


class Targets(Protocol):
    """The training targets of a model family.

    Attributes:
        preprocessing: how the family prepares pictures.
    """

    preprocessing: Preprocessing

    @property
    def accepts(self) -> Callable[[AnnotatedPicture, Resizing, tf.Tensor], tf.Tensor] | None:
        """Which crops it can use, see `augmentation.augment`; None: all."""

    def __call__(self, picture: AugmentedPicture) -> dict[str, Any]:
        """Computes a picture's training targets: tensors of static shapes, in any structure."""


def training_dataset(
    experiment: Experiment,
    targets: Targets,
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    input_context: tf.distribute.InputContext | None = None,
) -> tf.data.Dataset:
    """Creates the endless stream of training batches. An example depends only on the seed and its index in the stream.

    Args:
        experiment: the configuration.
        targets: the targets of the model family.
        batch_size: examples per batch, over all workers.
        seed: the seed for shuffling and augmentation.
        start_step: number of batches that the run has used already; the stream continues after them.
        input_context: from `Strategy.distribute_datasets_from_function`: the worker decodes only its part of each
            batch, and its batches are those of one replica. None: one worker with whole batches.

    Returns:
        Batches of static shapes: "images" float32 [b, height, width, 3], "geometry" (Geometry), and the tensors of
        `targets`. An unusable record fails with its file and index; see `record_errors.record_error`.

    Raises:
        DataError: no records match the pattern, or the files are empty.
    """
    data = experiment.task.train_data
    stream = TrainingStream(find_record_files(data.input_path), seed, data.shuffle_buffer_size)
    places_and_records = stream.records(start_step * batch_size)
    if input_context is not None:
        places_and_records = _of_worker(places_and_records, batch_size, input_context)
        batch_size = input_context.get_per_replica_batch_size(batch_size)

    @naming
    def make(place: tf.Tensor, serialized: tf.Tensor) -> dict[str, Any]:
        picture_seed = tf.stack([tf.constant(seed, tf.int64), place])
        record = parse_record(serialized, targets.preprocessing)
        picture = augment(record, picture_seed, targets.preprocessing, data.parser, targets.accepts)
        return {"images": picture.image, "geometry": picture.resizing.geometry, **targets(picture)}

    dataset = places_and_records.map(
        lambda place, record: make(record[0], record[1], place, record[2]),
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    )
    dataset = dataset.batch(batch_size, drop_remainder=True, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    # TensorFlow would expect the last batch of a worker to be smaller, and forget the shapes.
    endless = tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY)
    return dataset.prefetch(tf.data.AUTOTUNE).apply(endless)


def _of_worker(
    places_and_records: tf.data.Dataset, batch_size: int, context: tf.distribute.InputContext
) -> tf.data.Dataset:
    """Selects a worker's part of each batch.

    Every worker reads all records, which takes a hundredth of the time of decoding them. The content of a batch and the
    augmentation of each picture therefore do not depend on the number of workers.
    """
    if context.num_input_pipelines == 1:
        return places_and_records
    part = batch_size // context.num_input_pipelines
    return places_and_records.filter(lambda place, _: place % batch_size // part == context.input_pipeline_id)


def evaluation_dataset(
    pattern: str,
    preprocessing: Preprocessing,
    *,
    batch_size: int,
    limit: int | None = None,
    unusable: Callable[[Callable[[], PanopticError]], None] | None = None,
) -> tf.data.Dataset:
    """Reads pictures in the order of their records, each with its record, which contains the ground truth.

    A record that cannot be read or decoded is left out.

    Args:
        pattern: as for `find_record_files`.
        preprocessing: the preprocessing of the model family.
        batch_size: pictures per batch; the last batch may be smaller.
        limit: read only this many pictures; None: all.
        unusable: called in other threads for each record that is left out, with a function that returns what is wrong.

    Returns:
        Batches (images float32 [b, height, width, 3], Geometry, records string [b]).

    Raises:
        DataError: no records match the pattern.
    """
    told = unusable or (lambda explain: None)

    def make(serialized: tf.Tensor) -> tuple[tf.Tensor, Geometry, tf.Tensor]:
        parsed = tf.io.parse_single_example(serialized, {schema.IMAGE_ENCODED: tf.io.FixedLenFeature([], tf.string)})
        image, geometry = preprocessing.prepare(preprocessing.decode(parsed[schema.IMAGE_ENCODED]))
        return image, geometry, serialized

    files = find_record_files(pattern)
    columns = tuple(tf.TensorSpec([], dtype) for dtype in (tf.string, tf.int64, tf.string))
    dataset = tf.data.Dataset.from_generator(lambda: _whole_records(files, told), output_signature=columns)
    if limit is not None:
        dataset = dataset.take(limit)
    guarded = dropping(make, lambda path, index: told(functools.partial(unusable_record, path, index)))
    dataset = dataset.map(guarded, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    dataset = dataset.filter(lambda usable, _: usable).map(lambda _, made: made)
    return dataset.batch(batch_size).prefetch(2)


def _whole_records(
    files: Sequence[str], told: Callable[[Callable[[], PanopticError]], None]
) -> Iterator[tuple[str, int, bytes]]:
    """Yields (path, index, bytes) of the records that are whole. TensorFlow's reader stops at the first damaged one."""
    for path in files:
        for index, record in read_whole_records(path, lambda error: told(lambda: error)):
            yield path, index, record
