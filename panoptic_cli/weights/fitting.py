"""Which variables of a checkpoint fit a network: whole, or the rows of the categories that both have.

This module knows shapes, names and class axes, and neither the format of a checkpoint nor a family of networks.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from panoptic_cli.coco.tables import name_key
from panoptic_cli.errors import counted, listed
from panoptic_cli.models.class_axes import UNUSED, ClassAxis, ClassLabel

Shape = tuple[int, ...]
Axes = Mapping[str, ClassAxis]


class Rows(NamedTuple):
    """The indices of an axis that are taken over.

    Attributes:
        axis: the axis.
        ours: int64 [n], indices in the network's variable.
        theirs: int64 [n], those in the checkpoint's.
    """

    axis: int
    ours: np.ndarray
    theirs: np.ndarray


@dataclass(frozen=True)
class Fit:
    """What of a checkpoint fits a network. Variables go by their names, which both have.

    Attributes:
        whole: variables that are loaded whole.
        rows: variables of which some rows are loaded.
        missing: {variable that is not loaded: the reason}.
        unused: variables of the checkpoint that have no place in the network.
        kept: if there are rows: names of the network's categories that the checkpoint has, too.
        new: names of its other categories.
        note: what had to be assumed.
    """

    whole: tuple[str, ...]
    rows: Mapping[str, Rows]
    missing: Mapping[str, str]
    unused: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    new: tuple[str, ...] = ()
    note: str = ""

    @property
    def complete(self) -> bool:
        """Whether checkpoint and network are the same in everything."""
        return not (self.rows or self.missing or self.unused)

    def problems(self) -> list[str]:
        """Returns what does not fit, a phrase for each variable."""
        partly = [f"{name} has other categories in the checkpoint" for name in self.rows]
        absent = [f"{name} {reason}" for name, reason in self.missing.items()]
        return [*absent, *partly, *(f"{name} is only in the checkpoint" for name in self.unused)]

    def __str__(self) -> str:
        parts = [f"{counted(len(self.whole), 'variables')} whole, {len(self.rows)} in part"]
        if self.rows:
            total = len(self.kept) + len(self.new)
            names = f"rows of {len(self.kept)} of {total} categories: {listed(list(self.kept), 5)}"
            parts[0] += f" ({names if self.kept else f'none of the {total} categories has the same name there'})"
        absent = [f"{name} {reason}" for name, reason in self.missing.items()]
        parts.append(f"{len(absent)} not at all" + (f" ({listed(absent, 4)})" if absent else ""))
        if self.unused:
            parts.append(f"{len(self.unused)} of the checkpoint are not used ({listed(list(self.unused), 3)})")
        return ", ".join(parts) + (f". {self.note}" if self.note else "")


def fit(
    ours: Mapping[str, Shape],
    theirs: Mapping[str, Shape],
    our_axes: Axes,
    their_axes: Axes | None,
    unused: Sequence[str] = (),
    unusable: Mapping[str, str] | None = None,
) -> Fit:
    """Decides for each variable of a network what of it a checkpoint has.

    Args:
        ours: {name: shape} of the network's variables.
        theirs: {name: shape} of those that the checkpoint has, too.
        our_axes: the class axes of the network.
        their_axes: those of the checkpoint; None if its categories are not known. Then all class layers are loaded if
            they have the same shapes, and none of them otherwise.
        unused: further variables of the checkpoint.
        unusable: {name: why what the checkpoint has of it cannot be loaded}.
    """
    whole, rows, missing = [], {}, {}
    blind = their_axes is None
    alike = all(theirs.get(name) in (None, ours[name]) for name in our_axes)
    for name, shape in ours.items():
        their_shape = theirs.get(name)
        axis, other = our_axes.get(name), (their_axes or {}).get(name)
        found = match_rows(axis, other) if axis is not None and other is not None and axis != other else None
        if their_shape is None:
            missing[name] = (unusable or {}).get(name, "is not in the checkpoint")
        elif axis is not None and blind and not alike:
            missing[name] = "depends on the categories"
        elif found is not None and _without(shape, found.axis) == _without(their_shape, found.axis):
            rows[name] = found
        elif shape == their_shape and found is None:
            whole.append(name)
        else:
            missing[name] = f"is {list(their_shape)} in the checkpoint and {list(shape)} here"
    loaded = [*rows, *(name for name in whole if name in our_axes)] if rows else []
    kept, new = _categories(our_axes, {name: (their_axes or {}).get(name, our_axes[name]) for name in loaded})
    note = ""
    if blind and our_axes:
        note = (
            "The categories of the checkpoint are taken to be the same, in the same order"
            if alike
            else "The categories of the checkpoint are not known, so no rows were taken over"
        )
        note += "; --init-categories FILE names them"
    return Fit(tuple(whole), rows, missing, tuple(unused), kept, new, note)


def match_rows(ours: ClassAxis, theirs: ClassAxis) -> Rows | None:
    """Finds the indices of the classes that two axes share: roles by name, categories by name.

    Where several categories have one name, their ids decide.

    Returns:
        The indices; None if the axes are of different kinds.
    """
    if (ours.axis, ours.repeats) != (theirs.axis, theirs.repeats):
        return None
    there, again = _by_key(theirs), _by_key(ours)
    pairs = []
    for key, mine in again.items():
        places = there.get(key, {})
        if len(mine) == 1 and len(places) == 1:
            pairs.append((*mine.values(), *places.values()))
        else:
            pairs += [(place, places[identifier]) for identifier, place in mine.items() if identifier in places]
    pairs.sort()
    steps = np.arange(ours.repeats)
    columns = np.array(pairs, np.int64).reshape(-1, 2)
    return Rows(ours.axis, *((column[:, None] * ours.repeats + steps).ravel() for column in columns.T))


def first_that_fits(candidates: Sequence[Axes], shapes: Mapping[str, Shape], *, padded: bool = False) -> Axes | None:
    """Returns the first class axes that agree with a checkpoint's shapes.

    Args:
        candidates: class axes, by the variables' names.
        shapes: {name: shape} of the checkpoint's variables.
        padded: whether the checkpoint may have more classes; they are `UNUSED`.
    """
    for axes in candidates:
        found = {}
        for name, axis in axes.items():
            shape = shapes.get(name)
            if shape is None:
                continue
            size = shape[axis.axis] if axis.axis < len(shape) else -1
            more, rest = divmod(size - axis.size, axis.repeats)
            if rest or more < 0 or (more and not padded):
                break
            found[name] = ClassAxis(axis.axis, (*axis.labels, *[UNUSED] * more), axis.repeats)
        else:
            if found:
                return found
    return None


def _key(label: ClassLabel) -> tuple[bool, str]:
    return bool(label.category_id), name_key(label.name)


def _by_key(axis: ClassAxis) -> dict[tuple[bool, str], dict[int, int]]:
    """Returns {key of a label: {category id: place}}."""
    found: dict[tuple[bool, str], dict[int, int]] = {}
    for place, label in enumerate(axis.labels):
        if label != UNUSED:
            found.setdefault(_key(label), {})[label.category_id] = place
    return found


def _without(shape: Shape, axis: int) -> Shape:
    return shape[:axis] + shape[axis + 1 :]


def _categories(ours: Axes, loaded: Axes) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Returns the names of the network's categories that the loaded variables have, and of the others."""
    everything = dict.fromkeys(label for axis in ours.values() for label in axis.labels if label.category_id)
    names = {_key(label) for axis in loaded.values() for label in axis.labels}
    return (
        tuple(label.name for label in everything if _key(label) in names),
        tuple(label.name for label in everything if _key(label) not in names),
    )


def take(values: np.ndarray, initial: np.ndarray, rows: Rows) -> np.ndarray:
    """Returns a copy of the initial values with the rows of a checkpoint's values."""
    result = np.array(initial)
    ours: list[slice | np.ndarray] = [slice(None)] * result.ndim
    theirs = list(ours)
    ours[rows.axis], theirs[rows.axis] = rows.ours, rows.theirs
    result[tuple(ours)] = values[tuple(theirs)]
    return result


def missing_backbone(found: Fit, backbone: Collection[str]) -> list[str]:
    """Returns what is wrong with the variables of the backbone, which have to be loaded whole."""
    return [f"{name} {reason}" for name, reason in found.missing.items() if name in backbone]


def assign(variables: Mapping[str, Any], found: Fit, read: Callable[[str], np.ndarray]) -> int:
    """Assigns what fits, after everything is read, so that a damaged file changes nothing.

    Args:
        variables: {name: Keras variable}.
        found: what fits.
        read: takes a name, returns the values in the checkpoint.

    Returns:
        The number of values that were assigned.
    """
    values = {name: read(name) for name in (*found.whole, *found.rows)}
    return sum(assign_one(variables[name], value, found.rows.get(name)) for name, value in values.items())


def assign_one(variable: Any, values: np.ndarray, rows: Rows | None) -> int:
    """Assigns the values of a checkpoint, or some of their rows; returns the number of values that were assigned."""
    if rows is None:
        variable.assign(values)
        return int(values.size)
    initial = variable.numpy()
    variable.assign(take(values, initial, rows))
    return int(initial.size // initial.shape[rows.axis] * len(rows.ours))
