"""Handle SIGTERM and SIGHUP like Ctrl-C, so that work in progress is cleaned up, and hold all three back meanwhile."""

from __future__ import annotations

import _thread
import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from types import FrameType

_NAMES = ("SIGTERM", "SIGHUP")  # Windows has no SIGHUP
_LATER = 0.1  # seconds until a lost interrupt is repeated


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
def no_lost_interrupt() -> Iterator[None]:
    """Repeats a KeyboardInterrupt that comes while Python frees an object, which takes long after TensorFlow's work.

    Python cannot raise it there: it prints a traceback and goes on as if nothing had happened.
    """
    before = sys.unraisablehook

    def repeat(lost: sys.UnraisableHookArgs) -> None:
        if not issubclass(lost.exc_type, KeyboardInterrupt):
            before(lost)
            return
        timer = threading.Timer(_LATER, _interrupt_main)  # at once, it would be raised in here and lost again
        timer.daemon = True
        timer.start()

    sys.unraisablehook = repeat
    try:
        yield
    finally:
        sys.unraisablehook = before


def _interrupt_main() -> None:
    if signal.getsignal(signal.SIGINT) in (signal.SIG_IGN, signal.SIG_DFL):
        return
    main = threading.main_thread().ident
    if sys.platform == "win32" or main is None:
        _thread.interrupt_main()
    else:  # a real signal, because it also ends a wait for the network or a sleep
        signal.pthread_kill(main, signal.SIGINT)


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
