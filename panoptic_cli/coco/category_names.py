"""Comparing category tables by name: the same category may have another id in another file."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from panoptic_cli.categories import CategoryTable
from panoptic_cli.coco.tables import name_key
from panoptic_cli.errors import DataError, listed


def category_names(entries: Any) -> dict[Any, str]:
    """Returns {id: name} of the `categories` list of a COCO JSON; entries without both are left out."""
    return {
        entry["id"]: str(entry["name"])
        for entry in entries or ()
        if isinstance(entry, dict) and type(entry.get("id")) in (int, float, str) and entry.get("name") is not None
    }


def map_categories(
    names: Mapping[int, str], used: Collection[int], table: CategoryTable, source: str, owner: str
) -> tuple[dict[int, int] | None, str | None]:
    """Finds the categories of a file in a table by their names.

    Args:
        names: {id: name} in the file.
        used: the ids that have to be in the table.
        table: the categories that count.
        source: the file, for messages.
        owner: whose table it is, for messages: "the model".

    Returns:
        {id in the file: id in the table} of the names that both have, None if the ids are the same; and a line that
        says what was assumed, or None.

    Raises:
        DataError: names of the file are not in the table.
    """
    by_name: dict[str, list[int]] = {}
    for category in table.categories:
        by_name.setdefault(name_key(category.name), []).append(category.id)
    mapping = {}
    for identifier, name in names.items():
        same = by_name.get(name_key(name), [])
        if identifier in same or len(same) == 1:
            mapping[identifier] = identifier if identifier in same else same[0]
    unknown = [i for i in used if i not in mapping]
    if unknown:
        described = listed([f"{i} {names[i]!r}" if i in names else str(i) for i in sorted(unknown)], 3)
        raise DataError(
            f"{source} has categories that {owner} does not have: {described}.",
            f"The categories of {owner} are {listed([f'{c.id} {c.name!r}' for c in table.categories], 6)}.",
        )
    moved = [i for i, ours in mapping.items() if i != ours]
    if not moved:
        return None, None
    example = moved[0]
    note = (
        f"{source} numbers the categories otherwise than {owner}: they are paired by name "
        f"({names[example]!r} is {example} there, {mapping[example]} here)."
    )
    return mapping, note
