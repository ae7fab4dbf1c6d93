"""The category tables of annotation files: reading them, and contradictions between two of them."""

from __future__ import annotations

import unicodedata
from collections import Counter
from typing import Any

from panoptic_cli.categories import CategoryTable, whole_number
from panoptic_cli.coco import json_entries
from panoptic_cli.coco.json_fields import UNUSUAL_NUMBERS
from panoptic_cli.coco.json_index import JsonIndex
from panoptic_cli.coco.problems import Notes


def read_table(index: JsonIndex, notes: Notes) -> tuple[CategoryTable, int]:
    """Reads the `categories` of a panoptic JSON.

    Id 0 is unlabelled, in PNGs of categories as well as in the classes of networks. So a table that begins at 0 gets
    other ids: 1 is added to each.

    Args:
        index: index of the file.
        notes: receives what was assumed, and what is unusual about the table.

    Returns:
        The table, and what was added to the file's ids: 0 or 1.

    Raises:
        DataError: the table is not usable.
    """
    entries = decode_list(index, "categories")
    added = added_to_ids(entries)
    for entry in entries:
        if isinstance(entry, dict):
            unusual = isinstance(entry.get("id"), str | float) or isinstance(entry.get("isthing"), str | float)
            if unusual:
                notes.add(*UNUSUAL_NUMBERS)
    table = CategoryTable.from_list(raised(entries, added), str(index.file.path))
    if added:
        notes.add("category ids are raised by 1", "they begin at 0, which means unlabelled", len(table.categories))
    note_oddities(table, notes)
    return table, added


def added_to_ids(entries: list[Any]) -> int:
    """Returns what has to be added to the ids of a `categories` list: 1 if one of them is 0, otherwise 0."""
    return int(any(isinstance(entry, dict) and whole_number(entry.get("id")) == 0 for entry in entries))


def raised(entries: list[Any], added: int) -> list[Any]:
    """Returns a `categories` list with `added` added to every id that is a number."""
    if not added:
        return entries
    numbers = [whole_number(entry.get("id")) if isinstance(entry, dict) else None for entry in entries]
    pairs = zip(entries, numbers, strict=True)
    return [entry if number is None else {**entry, "id": number + added} for entry, number in pairs]


def note_oddities(table: CategoryTable, notes: Notes) -> None:
    """Notes what a table may not be meant to be: things or stuff alone, names that are empty or used twice."""
    total = len(table.categories)
    if total and not table.things:
        notes.add("categories, and none is a thing", "no objects are detected, and there is no AP", total)
    if total and not table.stuff:
        notes.add("categories, and none is stuff", "the semantic head learns nothing else", total)
    names = Counter(category.name for category in table.categories)
    for name, count in names.items():
        if not name.strip():
            notes.add("categories without a name", "reports show them by id", count)
        elif count > 1:
            notes.add("categories with the name of another one", f"{name} is there {count} times", count - 1)


def name_key(name: Any) -> str:
    """Returns a name without differences in case, outer spaces and Unicode form."""
    return unicodedata.normalize("NFC", str(name)).strip().casefold()


def conflicts(first: CategoryTable, second: CategoryTable) -> list[str]:
    """Lists contradictions between two tables: things that are stuff in the other, other names or ids for the same."""
    found = flag_conflicts(first, second)
    by_name = {category.name: category.id for category in second.categories}
    for one in first.categories:
        other = second.by_id.get(one.id)
        if other is not None and other.name == one.name:
            continue
        if one.name in by_name:
            found.append(f"{one.name} is {one.id} and {by_name[one.name]}")
        elif other is not None:
            found.append(f"{one.id} is {one.name!r} and {other.name!r}")
    return found


def flag_conflicts(first: CategoryTable, second: CategoryTable) -> list[str]:
    """Lists the names that are things in one table and stuff in the other."""
    kinds = ("stuff", "a thing")
    flags = {category.name: category.isthing for category in second.categories}
    return [
        f"{one.name} is {kinds[one.isthing]} and {kinds[flags[one.name]]}"
        for one in first.categories
        if flags.get(one.name, one.isthing) != one.isthing
    ]


def decode_list(index: JsonIndex, key: str) -> list[Any]:
    """Decodes a whole list of a file; for short ones.

    Raises:
        DataError: it is not JSON.
    """
    begin, end = index.lists[key]
    try:
        return list(json_entries.decode_entry(b"[" + index.file.read(begin, end - begin) + b"]"))
    except (ValueError, RecursionError) as error:
        raise index.file.invalid(error) from None
