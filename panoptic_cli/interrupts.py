"""SIGTERM and SIGHUP as Ctrl-C, for work that must be ended in order."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

_NAMES = ("SIGTERM", "SIGHUP")  # Windows has no SIGHUP


@contextlib.contextmanager
def terminate_as_interrupt() -> Iterator[None]:
    """Raises KeyboardInterrupt in the block when the process is told to end or its terminal goes away.

    Signals that are ignored stay so (nohup). Outside the main thread, which alone may set handlers, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(signum: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    numbers = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    # None: set by something that is not Python, which could not be put back.
    changed = [number for number in numbers if before[number] not in (signal.SIG_IGN, None)]
    for number in changed:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number in changed:
            signal.signal(number, before[number])
