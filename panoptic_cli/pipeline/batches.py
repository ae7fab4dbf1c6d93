"""The tf.data pipelines: shards -> shuffled records -> augmented pictures with training targets -> batches."""

from __future__ import annotations

import tensorflow as tf

from panoptic_cli.categories import LabelSpace
from panoptic_cli.config.schema import Experiment, Model
from panoptic_cli.models.panoptic_fpn.anchors import anchor_boxes
from panoptic_cli.pipeline.augmentation import training_example
from panoptic_cli.pipeline.preprocessing import decode_image, preprocess
from panoptic_cli.pipeline.record_errors import naming
from panoptic_cli.pipeline.stream import TrainingStream, read_shard, record_files
from panoptic_cli.records import schema


def training_dataset(
    experiment: Experiment,
    label_space: LabelSpace,
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    input_context: tf.distribute.InputContext | None = None,
) -> tf.data.Dataset:
    """The endless stream of training batches; every example is a function of (seed, its place in the stream).

    Args:
        experiment: configuration.
        label_space: classes.
        batch_size: examples of a step, of all workers together.
        seed: of shuffling and augmentation.
        start_step: steps already done by an earlier part of the run; the stream goes on behind them.
        input_context: of `Strategy.distribute_datasets_from_function`: the worker decodes its part of each batch
            only, and its batches are those of one replica. None: one worker, whole batches.

    Returns:
        Batches of `training_example`, with static shapes. An unusable record fails with its file and index, see
        `record_errors.record_error`.

    Raises:
        DataError: no records match, or there are none in them.
    """
    model, data = experiment.task.model, experiment.task.train_data
    anchors = anchor_boxes(model.anchor, model.input_size[:2], model.min_level, model.max_level)
    ignore_label = experiment.task.losses.semantic_segmentation_ignore_label
    stream = TrainingStream(record_files(data.input_path), seed, data.shuffle_buffer_size)
    places_and_records = stream.records(start_step * batch_size)
    if input_context is not None:
        places_and_records = _of_worker(places_and_records, batch_size, input_context)
        batch_size = input_context.get_per_replica_batch_size(batch_size)

    @naming
    def make(place: tf.Tensor, serialized: tf.Tensor) -> dict:
        picture_seed = tf.stack([tf.constant(seed, tf.int64), place])
        return training_example(
            serialized, picture_seed, model, data.parser, label_space, ignore_label, anchors=anchors
        )

    dataset = places_and_records.map(
        lambda place, record: make(record[0], record[1], place, record[2]),
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    )
    dataset = dataset.batch(batch_size, drop_remainder=True, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return dataset.prefetch(tf.data.AUTOTUNE)


def _of_worker(
    places_and_records: tf.data.Dataset, batch_size: int, context: tf.distribute.InputContext
) -> tf.data.Dataset:
    """Chooses a worker's part of each batch.

    All workers read all records, which takes a hundredth of the time of decoding them; so what is in a batch, and
    which picture is augmented how, does not depend on how many workers there are.
    """
    if context.num_input_pipelines == 1:
        return places_and_records
    part = batch_size // context.num_input_pipelines
    return places_and_records.filter(lambda place, _: place % batch_size // part == context.input_pipeline_id)


def evaluation_dataset(pattern: str, model: Model, *, batch_size: int, limit: int | None = None) -> tf.data.Dataset:
    """Pictures of records in order, each with its whole record for the ground truth.

    Args:
        pattern: as for `record_files`.
        model: for the input size.
        batch_size: pictures of a batch; the last may be smaller.
        limit: only the first so many pictures.

    Returns:
        Batches (images float32 [b, height, width, 3], image_info float32 [b, 4, 2], serialized string [b]). An
        unusable record fails with its file and index, see `record_errors.record_error`.

    Raises:
        DataError: no records match.
    """
    height, width = model.input_size[:2]

    @naming
    def make(serialized: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        parsed = tf.io.parse_single_example(serialized, {schema.IMAGE_ENCODED: tf.io.FixedLenFeature([], tf.string)})
        image, info = preprocess(decode_image(parsed[schema.IMAGE_ENCODED]), (height, width))
        return image, info, serialized

    dataset = tf.data.Dataset.from_tensor_slices(record_files(pattern)).flat_map(read_shard)
    if limit is not None:
        dataset = dataset.take(limit)
    dataset = dataset.map(make, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return dataset.batch(batch_size).prefetch(2)
