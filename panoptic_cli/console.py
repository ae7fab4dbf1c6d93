"""The one place that prints.

Results go to stdout, everything else (progress, notes, warnings, errors) to stderr. With `--json` the result is
exactly one JSON object on stdout. Progress is a bar with rate and time left on a terminal, plain lines elsewhere.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from panoptic_cli.errors import PanopticError

_PLAIN_INTERVAL = 10.0  # seconds between progress lines where there is no terminal


class _State:
    """What the global options chose."""

    def __init__(self) -> None:
        self.verbosity = 0
        self.json = False


_state = _State()


def configure(*, verbosity: int | None = None, json_output: bool | None = None) -> None:
    """Sets how much is printed.

    Args:
        verbosity: -1 errors and results only, 0 normal, 1 details. None leaves it.
        json_output: True prints the result as one JSON object. None leaves it.
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


def result(data: Mapping[str, Any], *renderables: RenderableType) -> None:
    """Prints a command's result on stdout: `data` with --json, the renderables (or `data`) without."""
    if _state.json:
        sys.stdout.write(json.dumps(data, default=str) + "\n")
        sys.stdout.flush()
        return
    out = Console(highlight=False)
    for item in renderables:
        if isinstance(item, str):
            out.print(item, markup=False, soft_wrap=True)
        else:
            out.print(item)


def info(message: str) -> None:
    """Tells what is going on; silent with --quiet."""
    if _state.verbosity >= 0:
        _stderr().print(message, markup=False)


def detail(message: str) -> None:
    """Tells a detail; printed with --verbose only."""
    if _state.verbosity >= 1:
        _stderr().print(message, markup=False, style="dim")


def warn(message: str) -> None:
    """Tells of something that may not be what the user wants; printed even with --quiet."""
    _stderr().print(f"[yellow]warning:[/] {escape(message)}")


def error(exception: BaseException, message: str | None = None) -> None:
    """Prints an error on stderr and, with --json, as the one object on stdout."""
    text = message if message is not None else str(exception)
    _stderr().print(f"[bold red]error:[/] {escape(text)}")
    if _state.json:
        hint = exception.hint if isinstance(exception, PanopticError) else None
        report = {"type": type(exception).__name__, "message": getattr(exception, "message", text), "hint": hint}
        sys.stdout.write(json.dumps({"error": report}) + "\n")
        sys.stdout.flush()


def table(title: str | None, columns: list[str], rows: list[list[str]], left: int = 1) -> Table:
    """Builds a table; the first `left` columns are text, the others numbers aligned to the right."""
    built = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for index, name in enumerate(columns):
        built.add_column(name, justify="left" if index < left else "right", overflow="fold")
    for row in rows:
        built.add_row(*[escape(cell) for cell in row])
    return built


class _RateColumn(ProgressColumn):
    """Items (or bytes) a second."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        """Renders the speed of the last seconds."""
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.1f} {self.unit}/s")


@contextlib.contextmanager
def progress(
    description: str, total: int | None, unit: str = "images", start: int = 0
) -> Iterator[Callable[..., None]]:
    """Shows the progress of one long task.

    Args:
        description: what is being done: "Converting val".
        total: how many units there are, None when unknown.
        unit: the units' plural noun.
        start: units already done, for work taken up again; they do not count in the rate.

    Yields:
        `advance(n=1, note=None)`: n units are done; `note` is a short text shown behind the numbers.
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
        _RateColumn(unit),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    console = Console(stderr=True, highlight=False)
    with Progress(*columns, console=console, transient=False, refresh_per_second=4) as bar:
        task = bar.add_task(escape(description), total=total, completed=start, note="")

        def advance(n: int = 1, note: str | None = None) -> None:
            if note is None:
                bar.update(task, advance=n)
            else:
                bar.update(task, advance=n, note=escape(note))

        yield advance


def _lines(description: str, total: int | None, unit: str, start: int) -> Iterator[Callable[..., None]]:
    done, last_note = start, ""
    begun = last_print = time.monotonic()

    def line(now: float) -> str:
        rate = (done - start) / max(now - begun, 1e-9)
        text = f"{description}: {done:,}" + (f"/{total:,}" if total else "") + f" {unit}, {rate:,.1f}/s"
        if total and rate > 0 and done < total:
            text += f", {_duration((total - done) / rate)} left"
        return text + (f", {last_note}" if last_note else "")

    def advance(n: int = 1, note: str | None = None) -> None:
        nonlocal done, last_note, last_print
        done += n
        last_note = note if note is not None else last_note
        now = time.monotonic()
        if now - last_print >= _PLAIN_INTERVAL and done != total:
            last_print = now
            info(line(now))

    yield advance
    info(line(time.monotonic()) + f" ({_duration(time.monotonic() - begun)})")


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
