"""The variables of EoMT whose shapes depend on the classes."""

from __future__ import annotations

from panoptic_cli.categories import CategoryTable
from panoptic_cli.models.class_axes import ClassAxis, ClassLabel

_NO_OBJECT = ClassLabel("no object")


def class_axes(table: CategoryTable) -> dict[str, ClassAxis]:
    """Returns {path of the variable: its class axis}: the categories in the order of the table, then "no object"."""
    labels = (*(ClassLabel(category.name, category.id) for category in table.categories), _NO_OBJECT)
    return {"eomt/heads/classes/kernel": ClassAxis(1, labels), "eomt/heads/classes/bias": ClassAxis(0, labels)}
