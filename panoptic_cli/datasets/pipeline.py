"""The tf.data pipelines: shards -> shuffled records -> augmented pictures with training targets -> batches."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from panoptic_cli.categories import LabelSpace
from panoptic_cli.config.schema import Experiment, Model, Parser
from panoptic_cli.datasets import records
from panoptic_cli.datasets.preprocessing import (
    decode_image,
    plan_resizing,
    preprocess,
    resize_image,
    resize_labels,
)
from panoptic_cli.datasets.record_parsing import parse_record
from panoptic_cli.errors import DataError
from panoptic_cli.models.anchors import anchor_boxes
from panoptic_cli.models.matching import anchor_targets

_INTERLEAVED_FILES = 16
_READ_BUFFER = 1 << 20  # bytes of a shard that are read at once
# Streams of random numbers of one picture, told apart by the last part of their seed.
_FLIP, _SCALE, _OFFSET, _ANCHORS = range(4)


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
        found = [path for path in found if records.is_shard(path)]
        if not found:
            raise DataError(
                f"No records match '{part}'.",
                "Make them with: panoptic make-tfrecords, or correct the pattern.",
            )
        files.extend(found)
    return sorted(set(files))


def _read_shard(path: tf.Tensor) -> tf.data.Dataset:
    return tf.data.TFRecordDataset(path, buffer_size=_READ_BUFFER)


def training_example(
    serialized: tf.Tensor,
    seed: tf.Tensor,
    model: Model,
    parser: Parser,
    label_space: LabelSpace,
    ignore_label: int,
    anchors: dict[int, np.ndarray] | None = None,
    subsample: bool = True,
) -> dict[str, tf.Tensor | dict[str, tf.Tensor]]:
    """Makes one training example: parse, flip, jitter the scale, crop, pad, and compute the targets.

    Args:
        serialized: string scalar, one record.
        seed: int64 [2], this picture's; the same seed gives the same example.
        model: sizes, levels and anchors.
        parser: augmentation and target settings.
        label_space: classes.
        ignore_label: semantic label of padding.
        anchors: those of `anchor_boxes`, to compute them once.
        subsample: False keeps every anchor's label.

    Returns:
        images float32 [height, width, 3], normalised; image_info float32 [4, 2];
        gt_boxes float32 [m, 4] in pixels of the input and gt_classes int32 [m], both padded with -1;
        gt_masks uint8 [m, s, s] in 0..255, each cropped to its box;
        semantic_labels int32 [height, width];
        rpn_scores and rpn_boxes by level (names are strings), see `anchor_targets`.
    """
    height, width = model.input_size[:2]
    if anchors is None:
        anchors = anchor_boxes(model.anchor, (height, width), model.min_level, model.max_level)
    seed = tf.cast(seed, tf.int32)

    def stream(number: int) -> tf.Tensor:
        return seed + tf.constant([0, number], tf.int32) * 1_000_003

    record = parse_record(serialized, label_space)
    image, semantic, boxes = record["image"], record["semantic"], record["boxes"]
    wanted = record["classes"] > 0
    if parser.skip_crowd_during_training:
        wanted &= ~record["is_crowd"]
    boxes = tf.boolean_mask(boxes, wanted)
    classes = tf.boolean_mask(record["classes"], wanted)
    mask_pngs = tf.boolean_mask(record["masks"], wanted)

    flipped = tf.constant(False)
    if parser.aug_rand_hflip:
        flipped = tf.random.stateless_uniform([], stream(_FLIP)) < 0.5
        image = tf.cond(flipped, lambda: image[:, ::-1], lambda: image)
        semantic = tf.cond(flipped, lambda: semantic[:, ::-1], lambda: semantic)
        mirrored = tf.stack([boxes[:, 0], 1.0 - boxes[:, 3], boxes[:, 2], 1.0 - boxes[:, 1]], axis=-1)
        boxes = tf.where(flipped, mirrored, boxes)

    random_scale = random_offset = None
    if parser.aug_scale_min != 1.0 or parser.aug_scale_max != 1.0:
        random_scale = tf.random.stateless_uniform([], stream(_SCALE), parser.aug_scale_min, parser.aug_scale_max)
        random_offset = tf.random.stateless_uniform([2], stream(_OFFSET))
    size = tf.shape(image)[:2]
    resizing = plan_resizing(size, (height, width), random_scale, random_offset)

    # From fractions to pixels of the input, clipped to it; what falls outside altogether is dropped.
    original = tf.tile(tf.cast(size, tf.float32), [2])
    scale = tf.tile(resizing.scale, [2])
    offset = tf.tile(tf.cast(resizing.offset, tf.float32), [2])
    boxes = tf.clip_by_value(boxes * original * scale - offset, 0.0, tf.constant([height, width] * 2, tf.float32))
    kept = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    boxes, classes = tf.boolean_mask(boxes, kept), tf.boolean_mask(classes, kept)
    mask_pngs = tf.boolean_mask(mask_pngs, kept)

    rpn_scores, rpn_boxes = anchor_targets(anchors, boxes, parser, stream(_ANCHORS) if subsample else None)

    most = parser.max_num_instances
    boxes, classes, mask_pngs = boxes[:most], classes[:most], mask_pngs[:most]
    masks = _crop_masks(mask_pngs, (boxes + offset) / scale / original, flipped, parser.mask_crop_size)
    padding = most - tf.shape(boxes)[0]
    crop = parser.mask_crop_size
    return {
        "images": resize_image(image, resizing, (height, width)),
        "image_info": resizing.image_info,
        "gt_boxes": tf.ensure_shape(tf.pad(boxes, [[0, padding], [0, 0]], constant_values=-1.0), [most, 4]),
        "gt_classes": tf.ensure_shape(tf.pad(classes, [[0, padding]], constant_values=-1), [most]),
        "gt_masks": tf.ensure_shape(tf.pad(masks, [[0, padding], [0, 0], [0, 0]]), [most, crop, crop]),
        "semantic_labels": resize_labels(semantic, resizing, (height, width), ignore_label),
        "rpn_scores": {str(level): target for level, target in rpn_scores.items()},
        "rpn_boxes": {str(level): target for level, target in rpn_boxes.items()},
    }


def _crop_masks(pngs: tf.Tensor, boxes: tf.Tensor, flipped: tf.Tensor, size: int) -> tf.Tensor:
    """Crops each mask to its box, one at a time: a stack of whole masks would be a hundred times as large.

    Args:
        pngs: string [n].
        boxes: float32 [n, 4], fractions of the (flipped) picture.
        flipped: bool scalar, whether the picture was mirrored; the PNGs are not.
        size: side of the crops.

    Returns:
        uint8 [n, size, size]: 255 inside, 0 outside, between at the edges.
    """

    def crop(item: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        png, box = item
        mask = tf.io.decode_png(png, channels=1)
        mask = tf.cond(flipped, lambda: mask[:, ::-1], lambda: mask)
        cropped = tf.image.crop_and_resize(mask[None], box[None], [0], [size, size])[0, ..., 0]
        return tf.cast(tf.round(tf.minimum(cropped, 1.0) * 255.0), tf.uint8)

    return tf.map_fn(crop, (pngs, boxes), fn_output_signature=tf.TensorSpec([size, size], tf.uint8))


def training_dataset(
    experiment: Experiment, label_space: LabelSpace, *, batch_size: int, seed: int, start_step: int = 0
) -> tf.data.Dataset:
    """The endless stream of training batches; every example is a function of (seed, its place in the stream).

    Args:
        experiment: configuration.
        label_space: classes.
        batch_size: examples of a batch.
        seed: of shuffling and augmentation.
        start_step: batches already used by an earlier part of the run; the stream goes on behind them.

    Returns:
        Batches of `training_example`, with static shapes.

    Raises:
        DataError: no records match.
    """
    model, data = experiment.task.model, experiment.task.train_data
    files = record_files(data.input_path)
    height, width = model.input_size[:2]
    anchors = anchor_boxes(model.anchor, (height, width), model.min_level, model.max_level)
    ignore_label = experiment.task.losses.semantic_segmentation_ignore_label

    start = start_step * batch_size
    epoch, skipped = divmod(start, count_records(files)) if start else (0, 0)

    # Two blocks are in memory at a time: the one being handed out and the one being read.
    block_size = max(1, data.shuffle_buffer_size // 2)

    def epoch_records(number: tf.Tensor) -> tf.data.Dataset:
        epoch_seed = tf.stack([tf.cast(seed, tf.int64), number])
        shards = tf.data.Dataset.from_tensor_slices(
            tf.random.experimental.stateless_shuffle(tf.constant(files), epoch_seed)
        )
        in_order = shards.interleave(
            _read_shard,
            cycle_length=min(_INTERLEAVED_FILES, len(files)),
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )

        # Shuffled block by block and without state, unlike Dataset.shuffle, whose order cannot depend on the epoch's
        # number and could be taken up again only by reading everything before.
        def shuffle(block: tf.Tensor, records_of_block: tf.Tensor) -> tf.Tensor:
            return tf.random.experimental.stateless_shuffle(records_of_block, epoch_seed + tf.stack([0, block]))

        return in_order.batch(block_size).prefetch(1).enumerate(1).map(shuffle).unbatch()

    stream = tf.data.Dataset.counter(epoch).flat_map(epoch_records)
    stream = stream.skip(skipped).enumerate(start)

    def example(place: tf.Tensor, serialized: tf.Tensor) -> dict:
        picture_seed = tf.stack([tf.cast(seed, tf.int64), place])
        return training_example(
            serialized, picture_seed, model, data.parser, label_space, ignore_label, anchors=anchors
        )

    dataset = stream.map(example, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    dataset = dataset.batch(batch_size, drop_remainder=True, num_parallel_calls=tf.data.AUTOTUNE)
    return dataset.prefetch(tf.data.AUTOTUNE)


def count_records(files: list[str]) -> int:
    """Counts the records of shards by reading through them.

    Raises:
        DataError: a shard is cut short or broken.
    """
    try:
        dataset = tf.data.Dataset.from_tensor_slices(files).interleave(
            _read_shard, num_parallel_calls=tf.data.AUTOTUNE, deterministic=False
        )
        return int(dataset.reduce(np.int64(0), lambda total, _: total + 1))
    except tf.errors.OpError as error:
        raise DataError(f"A training shard cannot be read: {error.message}", "Make it again.") from None


def evaluation_dataset(pattern: str, model: Model, *, batch_size: int, limit: int | None = None) -> tf.data.Dataset:
    """Pictures of records in order, each with its whole record for the ground truth.

    Args:
        pattern: as for `record_files`.
        model: for the input size.
        batch_size: pictures of a batch; the last may be smaller.
        limit: only the first so many pictures.

    Returns:
        Batches (images float32 [b, height, width, 3], image_info float32 [b, 4, 2], serialized string [b]).

    Raises:
        DataError: no records match.
    """
    height, width = model.input_size[:2]

    def prepare(serialized: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        parsed = tf.io.parse_single_example(serialized, {records.IMAGE_ENCODED: tf.io.FixedLenFeature([], tf.string)})
        image, info = preprocess(decode_image(parsed[records.IMAGE_ENCODED]), (height, width))
        return image, info, serialized

    dataset = tf.data.TFRecordDataset(record_files(pattern), buffer_size=_READ_BUFFER)
    if limit is not None:
        dataset = dataset.take(limit)
    dataset = dataset.map(prepare, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return dataset.batch(batch_size).prefetch(2)
