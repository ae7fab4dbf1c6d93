"""A small process pool: units of work are handed out one by one, report progress, and are never lost silently.

The standard pools either hang when a worker dies (multiprocessing.Pool) or cannot stop running work
(ProcessPoolExecutor). A conversion that takes hours needs both, so this pool is built from processes and pipes.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.forkserver
import multiprocessing.resource_tracker
import signal
import sys
import types
from collections.abc import Callable, Generator, Iterable, Iterator
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from types import FrameType
from typing import Any, Generic, TypeVar

from panoptic_cli.errors import PanopticError, RunError

Unit = TypeVar("Unit")
Outcome = TypeVar("Outcome")
Work = Callable[[Any, Callable[[int], None]], Any]

_STOP_SECONDS = 10.0


def preload(module: str) -> None:
    """Starts the server that forks the workers; it imports `module` while this process continues."""
    multiprocessing.set_forkserver_preload([module])
    multiprocessing.resource_tracker.ensure_running()  # it changes the mask itself
    # Ctrl-C reaches the whole process group: the server would end its imports with a traceback.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        multiprocessing.forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def run_units(
    work: Callable[[Unit, Callable[[int], None]], Outcome],
    units: Iterable[Unit],
    workers: int,
    advance: Callable[[int], None],
) -> Generator[Outcome]:
    """Runs `work(unit, advance)` for every unit and yields the outcomes as they are completed.

    A unit is taken from the iterable when a worker is free. On an exception, KeyboardInterrupt included, and when the
    generator is closed, the workers are stopped at once. They can still remove their temporary files. Close the
    generator with contextlib.closing, so that this happens without delay.

    Args:
        work: a picklable callable; with one worker it is called in this process.
        units: picklable units.
        workers: number of processes, at least 1.
        advance: called in this process with the progress that `work` reports.

    Raises:
        PanopticError: as `work` raised it.
        RunError: a process died.
    """
    if workers <= 1:
        for unit in units:
            yield _call(work, unit, advance)
        return
    with _Pool[Unit, Outcome](work, workers) as pool:
        yield from pool.run(iter(units), advance)


class _Pool(Generic[Unit, Outcome]):
    def __init__(self, work: Work, workers: int) -> None:
        # forkserver is safe if the parent has threads or TensorFlow loaded, and it imports our code only once.
        context = multiprocessing.get_context("forkserver")
        preload(getattr(work, "func", work).__module__)  # a partial has its function's module
        self._processes: dict[Connection, ForkServerProcess] = {}
        for _ in range(workers):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, work), daemon=True)
            with _without_main_module():
                process.start()
            theirs.close()  # so that the pipe ends with the process
            self._processes[ours] = process

    def __enter__(self) -> _Pool[Unit, Outcome]:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes.values():
            process.terminate()
        for connection, process in self._processes.items():
            process.join(_STOP_SECONDS)
            if process.is_alive():
                process.kill()
                process.join()
            connection.close()

    def run(self, units: Iterator[Unit], advance: Callable[[int], None]) -> Iterator[Outcome]:
        busy: set[Connection] = set()

        def hand_out(connection: Connection) -> None:
            with contextlib.suppress(StopIteration):
                unit = next(units)
                busy.add(connection)
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it died: `recv` reports it
                    connection.send(unit)

        for connection in self._processes:
            hand_out(connection)
        while busy:
            for ready in wait(list(busy)):
                assert isinstance(ready, Connection)
                try:
                    kind, value = ready.recv()
                except (EOFError, OSError):
                    process = self._processes[ready]
                    process.join(_STOP_SECONDS)
                    raise RunError(
                        f"A worker process died (exit code {process.exitcode}).",
                        "It probably ran out of memory. Try again with fewer processes (--workers).",
                    ) from None
                if kind == "advance":
                    advance(value)
                    continue
                busy.discard(ready)
                if kind == "error":
                    raise value
                hand_out(ready)
                yield value


@contextlib.contextmanager
def _without_main_module() -> Iterator[None]:
    """Keeps a new worker from importing the program's main module, which takes it up to half a second.

    The work is always a function of another module.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _call(work: Work, unit: Any, advance: Callable[[int], None]) -> Any:
    """Runs one unit; a lack of space, permissions or memory becomes a RunError."""
    try:
        return work(unit, advance)
    except (BrokenPipeError, ConnectionResetError):  # the pipe to the parent, not the disk
        raise
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        raise RunError(f"{place}{error.strerror or error}.", "Check free space and permissions.") from error
    except MemoryError:
        raise RunError("Out of memory.", "Try again with fewer processes (--workers).") from None


def _serve(connection: Connection, work: Work) -> None:
    """Runs units from the parent until it closes the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole process group; the parent decides
    signal.signal(signal.SIGTERM, _exit)
    try:
        while True:
            unit = connection.recv()
            try:
                outcome = _call(work, unit, lambda n: connection.send(("advance", n)))
            except (BrokenPipeError, ConnectionResetError):
                return
            except PanopticError as error:
                connection.send(("error", type(error)(error.message, error.hint)))
            except Exception as error:
                connection.send(("error", RuntimeError(f"{type(error).__name__} in a worker: {error}")))
            else:
                connection.send(("done", outcome))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the parent is gone


def _exit(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)  # unwinds the stack, so that temporary files are removed
