"""Which class each index of a variable belongs to, so that weights can be moved to another list of classes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from panoptic_cli.categories import CategoryTable


class ClassLabel(NamedTuple):
    """What a class stands for.

    Attributes:
        name: the name of a category or of a role such as "background"; "" for a class that nothing is assigned to.
        category_id: the id of the category; 0 for a role.
    """

    name: str
    category_id: int = 0


UNUSED = ClassLabel("")


@dataclass(frozen=True)
class ClassAxis:
    """The axis of a variable whose size depends on the classes.

    Attributes:
        axis: the axis, counted from 0.
        labels: the classes in the order of the axis.
        repeats: how many consecutive indices belong to each class, such as 4 for the sides of a class's box.
    """

    axis: int
    labels: tuple[ClassLabel, ...]
    repeats: int = 1

    @property
    def size(self) -> int:
        """The size of the axis."""
        return len(self.labels) * self.repeats

    def to_json(self) -> dict[str, Any]:
        """Returns the fields as JSON values."""
        return {"axis": self.axis, "labels": [list(label) for label in self.labels], "repeats": self.repeats}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ClassAxis:
        """Undoes `to_json`."""
        labels = tuple(ClassLabel(str(name), int(identifier)) for name, identifier in value["labels"])
        return cls(int(value["axis"]), labels, int(value["repeats"]))


def category_labels(ids: Iterable[int], table: CategoryTable) -> list[ClassLabel]:
    """Returns the labels of classes by their category ids; `UNUSED` for an id that is not in the table."""
    found = (table.by_id.get(int(identifier)) for identifier in ids)
    return [UNUSED if category is None else ClassLabel(category.name, category.id) for category in found]
