"""The categories of objects and stuff in one table, and what becomes of each category of the files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from panoptic_cli.categories import Category, CategoryTable
from panoptic_cli.coco.category_map import CategoryMap
from panoptic_cli.coco.tables import added_to_ids, raised
from panoptic_cli.errors import DataError, listed, one_line

_COCO_OTHER = (183, "other")  # in COCO's stuff annotations: the pixels of all things
_SHOWN = 3  # categories named in a note


@dataclass(frozen=True)
class Vocabulary:
    """The categories of a panoptic data set, and those of the files that it is made from.

    Attributes:
        table: the categories of the panoptic data set.
        of_objects: id in the table by id in the instances JSON; dropped categories are absent.
        of_stuff: the same by id in the stuff JSON, or by value of the semantic PNGs.
        unlabelled: ids or values of stuff that are left unlabelled: things of the instances JSON, and dropped ones.
        notes: what was assumed, one line each.
    """

    table: CategoryTable
    of_objects: dict[int, int]
    of_stuff: dict[int, int]
    unlabelled: frozenset[int] = frozenset()
    notes: tuple[str, ...] = ()

    def mapped(self, changes: CategoryMap) -> Vocabulary:
        """Returns the vocabulary after a category map, which was made for its table."""
        objects, stuff = (
            {old: changes.new_ids[new] for old, new in ids.items() if new in changes.new_ids}
            for ids in (self.of_objects, self.of_stuff)
        )
        return replace(
            self,
            table=changes.table,
            of_objects=objects,
            of_stuff=stuff,
            unlabelled=self.unlabelled | (self.of_stuff.keys() - stuff.keys()),
        )

    def settled(self) -> Vocabulary:
        """Returns the vocabulary without stuff that is a thing of the instances JSON: it is left unlabelled."""
        objects = set(self.of_objects.values())
        things = {old for old, new in self.of_stuff.items() if new in objects and self.table.by_id[new].isthing}
        if not things:
            return self
        names = [self.table.by_id[self.of_stuff[old]].name for old in sorted(things)]
        note = f"Stuff with the names of things is left unlabelled where no object is: {listed(names, _SHOWN)}."
        stuff = {old: new for old, new in self.of_stuff.items() if old not in things}
        return replace(self, of_stuff=stuff, unlabelled=self.unlabelled | things, notes=(*self.notes, note))


def combine(objects: CategoryList, stuff: CategoryList | None) -> Vocabulary:
    """Combines the categories of objects and of stuff; a name is one category.

    The categories of objects keep their ids, and so do those of stuff unless one of them is taken.

    Args:
        objects: the categories of the instances JSON.
        stuff: those of the stuff; None if the instances JSON has them too.
    """
    ours, added = objects.table(isthing=True)
    notes = [] if not added else [f"Category ids of {objects.source} are raised by 1, because 0 means unlabelled."]
    of_objects = {category.id - added: category.id for category in ours.categories}
    if stuff is None:
        return Vocabulary(ours, of_objects, dict(of_objects), notes=tuple(notes))
    theirs, added = stuff.table(isthing=False)
    by_name = {category.name: category for category in ours.categories}
    shared = {c.id - added: by_name[c.name] for c in theirs.categories if c.name in by_name}
    others = [c for c in theirs.categories if c.name not in by_name and not c.isthing]
    if any((c.id, c.name) == _COCO_OTHER for c in others):
        others = [c for c in others if (c.id, c.name) != _COCO_OTHER]
        notes.append(f"'other' (183) of {stuff.source} is left unlabelled: it stands for all things.")
    if things := [c.name for c in theirs.categories if c.name not in by_name and c.isthing]:
        notes.append(f"Things without objects are left unlabelled: {listed(things, _SHOWN)}.")
    added_categories = _numbered(others, ours)
    if added or added_categories != others:
        pairs = [f"{new.name} {old.id - added} -> {new.id}" for old, new in zip(others, added_categories, strict=True)]
        notes.append(f"Categories of {stuff.source} get other ids: {listed(pairs, _SHOWN)}.")
    of_stuff = {old.id - added: new.id for old, new in zip(others, added_categories, strict=True)}
    of_stuff |= {value: category.id for value, category in shared.items()}
    unlabelled = frozenset(c.id - added for c in theirs.categories) - of_stuff.keys()
    return Vocabulary(
        CategoryTable((*ours.categories, *added_categories)), of_objects, of_stuff, unlabelled, tuple(notes)
    )


def _numbered(categories: Sequence[Category], taken: CategoryTable) -> list[Category]:
    """Returns categories with ids that are not taken: their own, or all after the largest."""
    if not any(category.id in taken.by_id for category in categories):
        return list(categories)
    return [replace(category, id=taken.max_id + n) for n, category in enumerate(categories, start=1)]


@dataclass(frozen=True)
class CategoryList:
    """A list of categories as a file has it.

    Attributes:
        entries: objects with id, name and, optionally, isthing, color and supercategory.
        source: the file.
    """

    entries: list[Any]
    source: Path

    def table(self, isthing: bool) -> tuple[CategoryTable, int]:
        """Returns the categories, and what was added to their ids, which may begin at 0: 0 or 1.

        Args:
            isthing: what categories are that do not say it.

        Raises:
            DataError: an entry is not usable.
        """
        added = added_to_ids(self.entries)
        entries = [
            {**entry, "isthing": isthing} if isinstance(entry, dict) and entry.get("isthing") is None else entry
            for entry in raised(self.entries, added)
        ]
        return CategoryTable.from_list(entries, str(self.source)), added


def read_category_list(path: Path) -> CategoryList:
    """Reads categories from JSON or YAML: COCO's list, a file with such a list under `categories`, or `value: name`.

    Raises:
        DataError: the file is missing, unreadable or has another form.
    """
    try:
        text = path.read_text(encoding="utf-8")
        value = json.loads(text) if path.suffix.lower() == ".json" else yaml.safe_load(text)
    except FileNotFoundError:
        raise DataError(f"The categories file {path} does not exist.", "Check the path.") from None
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise DataError(f"The categories file {path} cannot be read: {one_line(error)}.") from None
    if isinstance(value, dict) and isinstance(value.get("categories"), list):
        value = value["categories"]
    elif isinstance(value, dict):
        value = [{"id": number, "name": name} for number, name in value.items()]
    if not isinstance(value, list):
        raise DataError(
            f"{path} has no categories.", "Give a list of objects with id and name, or a mapping of values to names."
        )
    return CategoryList(value, path)
