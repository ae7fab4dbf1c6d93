"""Leaving a cluster of workers."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Iterator
from typing import NoReturn

from panoptic_cli import console
from panoptic_cli.errors import INTERRUPTED, PanopticError


@contextlib.contextmanager
def leave_cluster_on_failure() -> Iterator[None]:
    """Ends the process at once if the block fails or is interrupted in a worker of a cluster.

    At a normal exit TensorFlow may wait for the other workers for ever. Without TF_CONFIG in the environment nothing
    changes.
    """
    try:
        yield
    except PanopticError as error:
        if "TF_CONFIG" not in os.environ:
            raise
        console.error(error)
        if os.environ.get("PANOPTIC_DEBUG"):
            traceback.print_exc()
        _leave(error.exit_code)
    except KeyboardInterrupt:
        if "TF_CONFIG" not in os.environ:
            raise
        console.warn("interrupted")
        _leave(INTERRUPTED)


def _leave(code: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
