"""Which pictures were in the batch of a step. They can be found again: the stream depends only on seed and step."""

from __future__ import annotations

import tensorflow as tf

from panoptic_cli.config import Experiment
from panoptic_cli.errors import PanopticError, listed, one_line
from panoptic_cli.pipeline.stream import TrainingStream
from panoptic_cli.records import schema
from panoptic_cli.training.inputs import find_training_records

_LIMIT = 64  # pictures that are named


def pictures_of_steps(experiment: Experiment, first: int, last: int) -> list[str]:
    """Returns the source ids of the pictures of steps `first` to `last`, counted from 1, in the batches' order.

    A record without an id is named by its file and index.

    Raises:
        DataError: the records do not exist or are empty.
    """
    data = experiment.task.train_data
    stream = TrainingStream(find_training_records(data.input_path), experiment.data_seed, data.shuffle_buffer_size)
    batch = experiment.pictures_per_step
    found = []
    for _, (path, index, record) in stream.records((first - 1) * batch).take((last - first + 1) * batch):
        ids = schema.decode_example(record.numpy()).get(schema.IMAGE_SOURCE_ID, ())
        found.append(ids[0].decode(errors="replace") if ids else f"record {int(index)} of {path.numpy().decode()}")
    return found


def describe_pictures(experiment: Experiment, first: int, last: int) -> str:
    """Returns a sentence with the ids of the pictures of some steps, or with the reason why they cannot be found."""
    steps = f"step {last}" if first == last else f"steps {first} to {last}"
    try:
        ids = pictures_of_steps(experiment, first, last)
    except (PanopticError, tf.errors.OpError, OSError, ValueError) as error:
        return f"The pictures of {steps} cannot be found: {one_line(error)}."
    return f"Pictures of {steps}: {listed(ids, _LIMIT)}."
