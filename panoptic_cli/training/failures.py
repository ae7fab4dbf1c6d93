"""Failures in the middle of a training that a user can do something about."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

import tensorflow as tf

from panoptic_cli.config import Experiment
from panoptic_cli.errors import PanopticError, TrainingError
from panoptic_cli.pipeline.record_errors import record_error

_PEER_ERRORS = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.InternalError,
    tf.errors.UnknownError,
    tf.errors.FailedPreconditionError,
)


@contextlib.contextmanager
def explained(experiment: Experiment, workers: int = 1) -> Iterator[None]:
    """Turns TensorFlow's errors into such that say what is wrong and what to do.

    Args:
        experiment: the configuration.
        workers: how many processes train together.

    Raises:
        TrainingError: the memory does not suffice, or another worker is gone.
        DataError: a training record cannot be used; names file and record.
    """
    try:
        yield
    except PanopticError:
        raise
    except tf.errors.ResourceExhaustedError as error:
        size = experiment.task.model.input_size
        raise TrainingError(
            f"The memory does not suffice for {experiment.task.train_data.global_batch_size} images of "
            f"{size[0]} x {size[1]} a step.",
            "Give a smaller --batch-size or task.model.input_size, more devices, or --precision bfloat16.",
        ) from error
    except tf.errors.OpError as error:
        explanation = record_error(error, experiment.task.train_data.input_path)
        if explanation is not None:
            raise explanation from error
        if workers > 1 and isinstance(error, _PEER_ERRORS):
            raise peer_lost(error) from error
        raise


# What TensorFlow says about a lost worker, within a page about the operation that noticed it.
_REASON = re.compile(
    r"The following tasks are unhealthy[^:]*: \S+|Connection reset by peer|[Ss]ocket closed|"
    r"failed to connect to all addresses|(?:Collective ops is aborted by|Error reported from)[^:]*: .{1,150}"
)


def peer_lost(error: tf.errors.OpError) -> TrainingError:
    """The error of a worker that can no longer reach the others."""
    text = " ".join(error.message.split())
    found = _REASON.search(text)
    return TrainingError(
        f"Another worker of the cluster has stopped or cannot be reached: {found[0] if found else text[-200:]}.",
        "Start the same command again on every worker: they go on from the last checkpoint.",
    )
