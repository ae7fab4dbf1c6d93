"""A journal of work: after the process is killed, the next one knows what was done."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any


class Journal:
    """A file of JSON lines, which names the task first and then everything that is done.

    A line is handed to the operating system at once, so it survives the process, but maybe not a loss of power.

    Args:
        path: the file; an earlier one is replaced.
        task: describes the work, as JSON.
        done: what is done already.
    """

    def __init__(self, path: Path, task: Any, done: Iterable[Any] = ()) -> None:
        new = path.with_name(f"{path.name}.new")
        new.write_text("".join(json.dumps(entry) + "\n" for entry in (task, *done)), encoding="utf-8")
        os.replace(new, path)
        self._stream = path.open("a", encoding="utf-8")

    def append(self, entry: Any) -> None:
        """Adds what has just been done."""
        self._stream.write(json.dumps(entry) + "\n")
        self._stream.flush()

    def close(self) -> None:
        """Closes the file."""
        self._stream.close()


def read_journal(path: Path, task: Any) -> list[Any]:
    """Returns what was done of a task, up to a line that is damaged; nothing if the file is missing or of another task.

    Args:
        path: the file.
        task: describes the work, as JSON.
    """
    entries: list[Any] = []
    try:
        lines = path.read_bytes().split(b"\n")[:-1]  # what follows the last line feed is not complete
    except FileNotFoundError:
        return entries
    for line in lines:
        try:
            entries.append(json.loads(line))
        except ValueError:
            break
    return entries[1:] if entries and entries[0] == task else []
