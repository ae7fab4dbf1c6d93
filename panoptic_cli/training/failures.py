"""Failures during a training that a user can do something about."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

import tensorflow as tf

from panoptic_cli import models
from panoptic_cli.config import Experiment
from panoptic_cli.errors import PanopticError, TrainingError, one_line
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
    """Replaces TensorFlow's errors by errors that say what is wrong and what to do.

    Args:
        experiment: the configuration.
        workers: how many processes train together.

    Raises:
        TrainingError: there is not enough memory, or another worker stopped.
        DataError: a training record cannot be used; names the file and the record.
    """
    try:
        yield
    except PanopticError:
        raise
    except tf.errors.ResourceExhaustedError as error:
        height, width = models.input_size(experiment)
        key = models.input_size_key(experiment)
        raise TrainingError(
            f"There is not enough memory for {experiment.task.train_data.global_batch_size} images of "
            f"{height} x {width} at a time.",
            f"Give a smaller --batch-size, and --accumulate N for steps of N batches. Or try a smaller {key}, more "
            "devices, or --precision bfloat16.",
        ) from error
    except tf.errors.OpError as error:
        explanation = record_error(error, experiment.task.train_data.input_path)
        if explanation is not None:
            raise explanation from error
        if workers > 1 and isinstance(error, _PEER_ERRORS):
            raise peer_lost(error) from error
        raise


# What TensorFlow says about a lost worker, in a long text about the operation that noticed it.
_REASON = re.compile(
    r"The following tasks are unhealthy[^:]*: \S+|Connection reset by peer|[Ss]ocket closed|"
    r"failed to connect to all addresses|(?:Collective ops is aborted by|Error reported from)[^:]*: .{1,150}"
)


def peer_lost(error: tf.errors.OpError) -> TrainingError:
    """Returns the error for a worker that can no longer reach the others."""
    text = one_line(error.message, limit=len(error.message))
    found = _REASON.search(text)
    return TrainingError(
        f"Another worker of the cluster has stopped or cannot be reached: {found[0] if found else text[-200:]}.",
        "Run the same command again on every worker: the training resumes at the last checkpoint.",
    )
