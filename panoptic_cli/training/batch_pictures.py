"""Which pictures were in the batch of a step: found again, because the stream depends on seed and step alone."""

from __future__ import annotations

import tensorflow as tf

from panoptic_cli.config import Experiment
from panoptic_cli.errors import PanopticError
from panoptic_cli.pipeline.stream import TrainingStream, record_files
from panoptic_cli.records import schema

_NAMED = 64  # pictures


def pictures_of_steps(experiment: Experiment, first: int, last: int) -> list[str]:
    """Returns the source ids of the pictures of steps `first` to `last`, counted from 1, in the batches' order.

    A record without an id is named by its file and place.

    Raises:
        DataError: the records are gone.
    """
    data = experiment.task.train_data
    stream = TrainingStream(record_files(data.input_path), experiment.data_seed, data.shuffle_buffer_size)
    batch = data.global_batch_size
    found = []
    for _, (path, index, record) in stream.records((first - 1) * batch).take((last - first + 1) * batch):
        ids = schema.decode_example(record.numpy()).get(schema.IMAGE_SOURCE_ID, ())
        found.append(ids[0].decode(errors="replace") if ids else f"record {int(index)} of {path.numpy().decode()}")
    return found


def describe_pictures(experiment: Experiment, first: int, last: int) -> str:
    """Returns a sentence with the ids of the pictures of some steps; tells as well when they cannot be found."""
    which = f"step {last}" if first == last else f"steps {first} to {last}"
    try:
        ids = pictures_of_steps(experiment, first, last)
    except (PanopticError, tf.errors.OpError, OSError, ValueError) as error:
        return f"The pictures of {which} cannot be told: {error}"
    more = f" and {len(ids) - _NAMED} more" if len(ids) > _NAMED else ""
    return f"Pictures of {which}: {', '.join(ids[:_NAMED])}{more}."
