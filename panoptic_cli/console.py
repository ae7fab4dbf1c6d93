"""All printing goes through this module.

Results go to stdout; progress, notes, warnings and errors go to stderr. With `--json` the result is exactly one
JSON object on stdout. On a terminal, progress is a bar with rate and time left; elsewhere it is plain lines.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.measure import Measurement
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

from panoptic_cli.errors import PanopticError

_PLAIN_INTERVAL = 10.0  # seconds between progress lines that are not drawn on a terminal


class _State:
    """The choices of the global options."""

    def __init__(self) -> None:
        self.verbosity = 0
        self.json = False


_state = _State()


def configure(*, verbosity: int | None = None, json_output: bool | None = None) -> None:
    """Sets how much is printed.

    Args:
        verbosity: -1 for results, warnings and errors only, 0 for normal output, 1 for details. None: unchanged.
        json_output: whether results are printed as one JSON object. None: unchanged.
    """
    if verbosity is not None:
        _state.verbosity = verbosity
    if json_output is not None:
        _state.json = json_output


def json_output() -> bool:
    """Whether results are printed as JSON."""
    return _state.json


def is_live() -> bool:
    """Whether progress is drawn in place: on a terminal, and not with --quiet."""
    return _state.verbosity >= 0 and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


def _stderr() -> Console:
    return Console(stderr=True, highlight=False, soft_wrap=True)


def result(data: Mapping[str, Any], *renderables: RenderableType | WideTable) -> None:
    """Prints a command's result on stdout: `data` with --json, otherwise the renderables."""
    if _state.json:
        sys.stdout.write(json.dumps(data, default=str) + "\n")
        sys.stdout.flush()
        return
    out = Console(highlight=False)
    for item in renderables:
        if isinstance(item, str):
            out.print(item, markup=False, soft_wrap=True)
        elif isinstance(item, WideTable):
            item.print(out)
        else:
            out.print(item)


def info(message: str) -> None:
    """Prints a note, unless --quiet is set."""
    if _state.verbosity >= 0:
        _stderr().print(message, markup=False)


def detail(message: str) -> None:
    """Prints a detail if --verbose is set."""
    if _state.verbosity >= 1:
        _stderr().print(message, markup=False, style="dim")


def warn(message: str) -> None:
    """Warns about something the user may not intend; printed even with --quiet."""
    _stderr().print(f"[yellow]warning:[/] {escape(message)}")


def error(exception: BaseException, message: str | None = None) -> None:
    """Prints an error on stderr and, with --json, also as the one object on stdout.

    Args:
        exception: the error.
        message: what to print instead of the exception's own text.
    """
    text = message if message is not None else str(exception)
    _stderr().print(f"[bold red]error:[/] {escape(text)}")
    if _state.json:
        hint = exception.hint if isinstance(exception, PanopticError) else None
        report = {"type": type(exception).__name__, "message": getattr(exception, "message", text), "hint": hint}
        sys.stdout.write(json.dumps({"error": report}) + "\n")
        sys.stdout.flush()


def table(title: str | None, columns: list[str], rows: list[list[str]], left: int = 1) -> Table:
    """Builds a table. The first `left` columns are text; the others are numbers, aligned to the right."""
    built = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for index, name in enumerate(columns):
        built.add_column(name, justify="left" if index < left else "right", overflow="fold")
    for row in rows:
        built.add_row(*[escape(cell) for cell in row])
    return built


@dataclass(frozen=True)
class WideTable:
    """A table that leaves columns out where a terminal is too narrow: folded figures cannot be read.

    Attributes:
        title: printed above it.
        columns: {head: cells}; all of the same length.
        left: how many of the first columns are text; the others are numbers, aligned to the right.
        spare: heads to leave out, a group at a time, in this order.
    """

    title: str
    columns: Mapping[str, Sequence[str]]
    left: int
    spare: Sequence[Sequence[str]]

    def print(self, out: Console) -> None:
        """Prints it: on a terminal as wide as fits, elsewhere whole."""
        whole = self._build((), broken=False)
        if not out.is_terminal and "COLUMNS" not in os.environ:
            out.width = max(out.width, _width(whole))
            out.print(whole)
            return
        for groups in range(len(self.spare) + 1):
            absent = [head for group in self.spare[:groups] for head in group if head in self.columns]
            for broken in (False, True):  # then each word of a head is on its own line
                built = self._build(absent, broken)
                if _width(built) <= out.width or (broken and groups == len(self.spare)):
                    out.print(built)
                    if absent:
                        out.print(f"Without {', '.join(absent)}: the terminal is too narrow.", style="dim")
                    return

    def _build(self, absent: Sequence[str], broken: bool) -> Table:
        heads = [head for head in self.columns if head not in absent]
        left = sum(head not in absent for head in list(self.columns)[: self.left])
        rows = zip(*(self.columns[head] for head in heads), strict=True)
        names = [head.replace(" ", "\n") if broken else head for head in heads]
        return table(self.title, names, [list(row) for row in rows], left)


def _width(built: Table) -> int:
    unlimited = Console(width=1_000_000, file=io.StringIO())
    return Measurement.get(unlimited, unlimited.options, built).maximum


class _Pace:
    """Counts units and measures their rate between the first and the last advance.

    The time before the first advance (tracing, starting processes, reading files) says nothing about the rate.

    Args:
        done: units already done.
        total: units in all, None if unknown.
    """

    def __init__(self, done: int, total: int | None) -> None:
        self.done = done
        self.total = total
        self._first: tuple[float, int] | None = None
        self._last = 0.0

    def advance(self, n: int) -> None:
        """Adds `n` units."""
        self.done += n
        if n > 0:
            self._last = time.monotonic()
            self._first = self._first or (self._last, self.done)

    @property
    def rate(self) -> float | None:
        """Units a second; None before the second advance."""
        if self._first is None or self._last <= self._first[0]:
            return None
        begun, done = self._first
        return (self.done - done) / (self._last - begun)

    @property
    def left(self) -> float | None:
        """Estimated seconds until all is done; None if unknown or if nothing is left."""
        rate = self.rate
        return (self.total - self.done) / rate if rate and self.total and self.done < self.total else None


@contextlib.contextmanager
def progress(
    description: str, total: int | None, unit: str = "images", start: int = 0
) -> Iterator[Callable[..., None]]:
    """Shows the progress of one long task.

    Args:
        description: what is being done: "Converting val".
        total: number of units, None if unknown.
        unit: the units' plural noun.
        start: units already done when the task resumes; they do not count in the rate.

    Yields:
        `advance(n=1, note=None)`: call it when n more units are done; `note` is a short text shown after the numbers.
    """
    if _state.verbosity < 0:
        yield lambda n=1, note=None: None
    elif is_live():
        yield from _bar(description, total, unit, start)
    else:
        yield from _lines(description, total, unit, start)


def _bar(description: str, total: int | None, unit: str, start: int) -> Iterator[Callable[..., None]]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
        TextColumn("{task.fields[note]}"),
    )
    console, pace = Console(stderr=True, highlight=False), _Pace(start, total)
    with Progress(*columns, console=console, transient=False, refresh_per_second=4) as bar:
        task = bar.add_task(escape(description), total=total, completed=start, rate="", left="", note="")

        def advance(n: int = 1, note: str | None = None) -> None:
            pace.advance(n)
            fields: dict[str, Any] = {
                "rate": "" if pace.rate is None else f"{pace.rate:,.1f} {unit}/s",
                "left": "" if pace.left is None else f"{_duration(pace.left)} left",
            }
            if note is not None:
                fields["note"] = escape(note)
            bar.update(task, completed=pace.done, **fields)

        yield advance


def _lines(description: str, total: int | None, unit: str, start: int) -> Iterator[Callable[..., None]]:
    pace, last_note = _Pace(start, total), ""
    begun = last_print = time.monotonic()

    def line(*, ended: bool = False) -> str:
        text = f"{description}: {pace.done:,}" + (f"/{total:,}" if total else "") + f" {unit}"
        if pace.rate is not None and not ended:  # the whole time follows then, and the rate leaves out its start
            text += f", {pace.rate:,.1f}/s"
        if pace.left is not None and not ended:
            text += f", {_duration(pace.left)} left"
        return text + (f", {last_note}" if last_note else "")

    def advance(n: int = 1, note: str | None = None) -> None:
        nonlocal last_note, last_print
        pace.advance(n)
        last_note = note if note is not None else last_note
        now = time.monotonic()
        if now - last_print >= _PLAIN_INTERVAL and pace.done != total:
            last_print = now
            info(line())

    yield advance
    info(f"{line(ended=True)} ({_duration(time.monotonic() - begun)})")


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
