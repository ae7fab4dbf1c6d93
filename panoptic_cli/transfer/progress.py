"""Progress in bytes: on a terminal, a row for each file and one for the total; elsewhere, plain lines."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Protocol

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Column

from panoptic_cli import console

_MB = 10**6
_NAME_WIDTH, _WIDE_NAME = 26, 40  # the first lets a row fit into 80 columns


class Show(Protocol):
    """Updates the progress."""

    def __call__(self, done: int, files: Mapping[str, int] | None = None, note: str | None = None) -> None:
        """Shows the progress so far.

        Args:
            done: total bytes done.
            files: bytes done of each file, by name.
            note: a short text after the numbers.
        """


@contextlib.contextmanager
def byte_progress(
    description: str, total: int | None, files: Mapping[str, int | None] | None = None, start: int = 0
) -> Iterator[Show]:
    """Shows the bytes done, the speed and the time left.

    Args:
        description: what is being done: "Uploading".
        total: bytes in all, None if unknown.
        files: files with their own row, name -> bytes (None if unknown).
        start: bytes already done when the task resumes; they do not count in the speed.

    Yields:
        `show(done, files, note)`, see `Show`. Call it from one thread.
    """
    if console.is_live():
        yield from _rows(description, total, files or {}, start)
    else:
        yield from _lines(description, total, files or {}, start)


def _rows(description: str, total: int | None, files: Mapping[str, int | None], start: int) -> Iterator[Show]:
    terminal = Console(stderr=True, highlight=False)
    name_width = _WIDE_NAME if terminal.width >= 100 else _NAME_WIDTH
    columns = (
        TextColumn("{task.description}", table_column=Column(no_wrap=True, overflow="ellipsis", max_width=name_width)),
        BarColumn(bar_width=None, table_column=Column(ratio=1, min_width=6, max_width=60)),
        DownloadColumn(table_column=Column(justify="right", no_wrap=True)),
        TransferSpeedColumn(table_column=Column(justify="right", no_wrap=True, min_width=10)),
        TimeRemainingColumn(compact=True, table_column=Column(justify="right", no_wrap=True)),
        TextColumn("{task.fields[note]}", table_column=Column(no_wrap=True)),
    )
    with Progress(*columns, console=terminal, refresh_per_second=4, expand=True) as bar:
        rows = {name: bar.add_task(escape(name), total=size, start=False, note="") for name, size in files.items()}
        all_of_them = bar.add_task(escape(description), total=total, completed=start, note="")

        def show(done: int, files: Mapping[str, int] | None = None, note: str | None = None) -> None:
            for name, count in (files or {}).items():
                task = bar.tasks[bar.task_ids.index(rows[name])]
                if count and not task.started:
                    # Bytes of an earlier run are shown at once and do not count in the speed.
                    bar.update(rows[name], completed=count)
                    bar.start_task(rows[name])
                else:
                    bar.update(rows[name], completed=count)
            if note is None:
                bar.update(all_of_them, completed=max(done, start))
            else:
                bar.update(all_of_them, completed=max(done, start), note=escape(note))

        yield show


def _lines(description: str, total: int | None, sizes: Mapping[str, int | None], start: int) -> Iterator[Show]:
    shown = round(start / _MB)
    megabytes = None if total is None else round(total / _MB)
    with console.progress(description, megabytes, "MB", shown) as advance:

        def show(done: int, files: Mapping[str, int] | None = None, note: str | None = None) -> None:
            nonlocal shown
            if files:
                note = ", ".join(_percentage(name, count, sizes[name]) for name, count in files.items())
            now = max(shown, round(done / _MB))
            advance(now - shown, note)
            shown = now

        yield show


def _percentage(name: str, count: int, size: int | None) -> str:
    return f"{name} {count / size:.0%}" if size else f"{name} {count / _MB:.0f} MB"
