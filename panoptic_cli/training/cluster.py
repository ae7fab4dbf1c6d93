"""How a worker leaves its cluster when something goes wrong."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from typing import NoReturn

from panoptic_cli import console
from panoptic_cli.errors import INTERRUPTED, PanopticError

_GRACE = 3.0  # seconds in which the main thread can handle a second Ctrl-C itself
_interrupted_twice = threading.Event()


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
        if _interrupted_twice.is_set():  # the error is a consequence: TensorFlow cancelled what was under way
            _leave_interrupted(in_a_step=True)
        console.error(error)
        if os.environ.get("PANOPTIC_DEBUG"):
            traceback.print_exc()
        _leave(error.exit_code)
    except KeyboardInterrupt:
        if "TF_CONFIG" not in os.environ:
            raise
        _leave_interrupted()


@contextlib.contextmanager
def leave_cluster_on_second_interrupt() -> Iterator[None]:
    """Ends the process at a second Ctrl-C in the block, even while the main thread waits for another worker.

    Python runs signal handlers in the main thread, between two operations. An operation that waits for a worker that
    does not answer may take for ever. Call it in the main thread.
    """
    left = threading.Event()
    reader, writer = os.pipe()

    def watch() -> None:
        count = 0
        while signals := os.read(reader, 64):
            count += signals.count(signal.SIGINT)
            if count > 1:
                _interrupted_twice.set()
                if not left.wait(_GRACE):
                    _leave_interrupted(in_a_step=True)
        os.close(reader)

    os.set_blocking(writer, False)
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)  # gets a byte with the number of each signal
    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        left.set()
        signal.set_wakeup_fd(before)
        os.close(writer)  # ends the thread


def _leave_interrupted(in_a_step: bool = False) -> NoReturn:
    """Ends the process. `in_a_step`: the loop could not say itself that it was stopped."""
    if in_a_step:
        console.info("Stopped in the middle of a step. Run the same command again to resume.")
    console.warn("interrupted")
    _leave(INTERRUPTED)


def _leave(code: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
