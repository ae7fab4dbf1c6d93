"""A small process pool: units of work handed out one by one, progress within a unit, none lost silently.

The standard pools either hang when a worker dies (multiprocessing.Pool) or cannot stop running work
(ProcessPoolExecutor); a conversion of hours needs both, so this one is built from processes and pipes.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.forkserver
import signal
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


def prepare(module: str) -> None:
    """Starts what workers are forked from, which imports `module` while this process goes on."""
    multiprocessing.set_forkserver_preload([module])
    multiprocessing.forkserver.ensure_running()


def run_units(
    work: Callable[[Unit, Callable[[int], None]], Outcome],
    units: Iterable[Unit],
    workers: int,
    advance: Callable[[int], None],
) -> Generator[Outcome]:
    """Runs `work(unit, advance)` for every unit and yields the outcomes as they come.

    Units are taken from the iterable only when a worker is free for one. On an exception, KeyboardInterrupt
    included, and when the generator is closed, workers are stopped at once; they get the chance to remove
    temporary files.

    Args:
        work: a picklable callable; called in this process when workers is 1.
        units: picklable.
        workers: number of processes, at least 1.
        advance: called in this process with what `work` reported.

    Raises:
        PanopticError: as `work` raised it, or RunError when a process died.
    """
    if workers <= 1:
        for unit in units:
            yield _call(work, unit, advance)
        return
    with _Pool[Unit, Outcome](work, workers) as pool:
        yield from pool.run(iter(units), advance)


class _Pool(Generic[Unit, Outcome]):
    def __init__(self, work: Work, workers: int) -> None:
        # forkserver: safe where the parent has threads or TensorFlow loaded, and it imports our code only
        # once.
        context = multiprocessing.get_context("forkserver")
        prepare(getattr(work, "func", work).__module__)  # of a partial, its function's
        self._processes: dict[Connection, ForkServerProcess] = {}
        for _ in range(workers):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, work), daemon=True)
            process.start()
            theirs.close()  # so that the end of the process is the end of the pipe
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
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it died: `recv` tells how
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
                        "Often memory ran out: try again with fewer --workers; what is whole is kept.",
                    ) from None
                if kind == "advance":
                    advance(value)
                    continue
                busy.discard(ready)
                if kind == "error":
                    raise value
                hand_out(ready)
                yield value


def _call(work: Work, unit: Any, advance: Callable[[int], None]) -> Any:
    """Runs one unit; what the machine lacks becomes an error that says so."""
    try:
        return work(unit, advance)
    except (BrokenPipeError, ConnectionResetError):  # the pipe to the parent, not the disk
        raise
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        raise RunError(f"{place}{error.strerror or error}.", "Check free space and permissions.") from error
    except MemoryError:
        raise RunError("Memory ran out.", "Try again with fewer --workers.") from None


def _serve(connection: Connection, work: Work) -> None:
    """The worker's loop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
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
    raise SystemExit(128 + number)  # unwinds, so that temporary files are removed
