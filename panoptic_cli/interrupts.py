"""Handle SIGTERM and SIGHUP like Ctrl-C, so that work in progress is cleaned up, and hold all three back meanwhile."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from types import FrameType

_NAMES = ("SIGTERM", "SIGHUP")  # Windows has no SIGHUP


@contextlib.contextmanager
def terminate_as_interrupt() -> Iterator[None]:
    """Raises KeyboardInterrupt inside the block on SIGTERM (kill) and SIGHUP (the terminal closes).

    Ignored signals stay ignored (nohup). Outside the main thread, where Python cannot set handlers, nothing changes.
    """

    def interrupt(signum: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    with _handled(_NAMES, interrupt):
        yield


@contextlib.contextmanager
def no_second_interrupt() -> Iterator[None]:
    """Ignores Ctrl-C, SIGTERM and SIGHUP inside the block, which keeps the work of an interrupted command."""
    with _handled(("SIGINT", *_NAMES), signal.SIG_IGN):
        yield


@contextlib.contextmanager
def _handled(
    names: Sequence[str], handler: Callable[[int, FrameType | None], None] | signal.Handlers
) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    # None: the handler was not set from Python, so it could not be restored.
    changed = [number for number in numbers if before[number] not in (signal.SIG_IGN, None)]
    for number in changed:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number in changed:
            signal.signal(number, before[number])
