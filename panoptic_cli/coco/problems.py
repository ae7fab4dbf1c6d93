"""What reading annotation files finds: problems, and notes on what was assumed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from panoptic_cli.errors import counted

_SHOWN = 3  # problems of each kind


@dataclass(frozen=True)
class Problem:
    """A problem in the annotation files.

    Attributes:
        kind: the kind of problem, in the same words for every problem of that kind.
        file: the annotation file.
        message: one line that names the place in the file.
        picture: the id of the affected image, None for the whole file.
    """

    kind: str
    file: Path
    message: str
    picture: int | None


@dataclass(frozen=True)
class Note:
    """What was assumed about entries that are not as COCO's, but clear.

    Attributes:
        kind: what the entries are, in the plural: "images without width and height".
        detail: what was assumed, and an example where it helps.
        count: how many there are.
    """

    kind: str
    detail: str
    count: int

    def __str__(self) -> str:
        return f"{counted(self.count, self.kind)}: {self.detail}"


class Notes:
    """Collects notes. Those of one kind are one note with their number and the first detail."""

    def __init__(self) -> None:
        self._found: dict[str, Note] = {}

    def add(self, kind: str, detail: str, count: int = 1) -> None:
        """Counts entries of one kind."""
        known = self._found.get(kind)
        self._found[kind] = Note(kind, detail if known is None else known.detail, count + (known.count if known else 0))

    def update(self, others: Notes) -> None:
        """Adds the notes of another collection."""
        for note in others.all():
            self.add(note.kind, note.detail, note.count)

    def all(self) -> tuple[Note, ...]:
        """Returns the notes in the order of their first entries."""
        return tuple(self._found.values())


def describe_problems(problems: Iterable[Problem]) -> list[str]:
    """Returns a line for the problems of each kind in each file: their number, and the first three."""
    groups: dict[tuple[str, Path], list[str]] = {}
    for problem in problems:
        groups.setdefault((problem.kind, problem.file), []).append(problem.message)
    lines = []
    for (kind, file), messages in groups.items():
        rest = len(messages) - _SHOWN
        shown = "; ".join(messages[:_SHOWN]) + (f"; and {rest:,} more" if rest > 0 else "")
        lines.append(f"{file}: {shown}" if len(messages) == 1 else f"{file}: {kind} ({len(messages):,}): {shown}")
    return lines
