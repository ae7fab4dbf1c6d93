"""Pairing the categories of two files by name: the same category may have another id in another file."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from panoptic_cli.categories import CategoryTable, whole_number
from panoptic_cli.coco.json_index import JsonIndex
from panoptic_cli.coco.problems import Notes, Problem
from panoptic_cli.coco.tables import decode_list, name_key
from panoptic_cli.errors import DataError, listed

_SHOWN = 3  # categories named in a message


def category_names(entries: Any) -> dict[int, str]:
    """Returns {id: name} of the `categories` list of a COCO JSON; entries without both are left out."""
    return {
        number: str(entry["name"])
        for entry in entries or ()
        if isinstance(entry, dict) and entry.get("name") is not None
        if (number := whole_number(entry.get("id"))) is not None
    }


def match_names(names: Mapping[int, str], table: CategoryTable) -> dict[int, int]:
    """Returns {id in a file: id in a table} of the categories whose names both have.

    Of several categories with one name, only the one with the same id is meant.

    Args:
        names: {id: name} in the file.
        table: the categories.
    """
    by_name: dict[str, list[int]] = {}
    for category in table.categories:
        by_name.setdefault(name_key(category.name), []).append(category.id)
    found = {}
    for identifier, name in names.items():
        same = by_name.get(name_key(name), [])
        if identifier in same or len(same) == 1:
            found[identifier] = identifier if identifier in same else same[0]
    return found


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
    mapping = match_names(names, table)
    unknown = [i for i in used if i not in mapping]
    if unknown:
        described = listed([f"{i} {names[i]!r}" if i in names else str(i) for i in sorted(unknown)], _SHOWN)
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


def pair_categories(
    instances: JsonIndex, table: CategoryTable, added: int, panoptic: JsonIndex, notes: Notes, problems: list[Problem]
) -> dict[int, int]:
    """Pairs the categories of an instances JSON with those of the panoptic JSON by name.

    Args:
        instances: index of the instances JSON.
        table: the categories of the panoptic JSON.
        added: what was added to their ids.
        panoptic: index of the panoptic JSON.
        notes: receives categories with the same name and another id.
        problems: receives ids that have another name in the panoptic JSON.

    Returns:
        The table's id for each id of the instances JSON. Categories that only one file has are absent.
    """
    same_ids = {category.id - added: category.id for category in table.categories}
    names = category_names(decode_list(instances, "categories") if "categories" in instances.lists else [])
    if not names:  # nothing to compare: the ids are those of the panoptic JSON
        return same_ids
    matched = match_names({number + added: name for number, name in names.items()}, table)
    paired = {number: matched[number + added] for number in names if number + added in matched}
    moved = [
        f"{names[number]} is {number} there, {identifier - added} here"
        for number, identifier in paired.items()
        if identifier != number + added
    ]
    for number, name in names.items():
        if number not in paired and number in same_ids:
            other = table.by_id[same_ids[number]].name
            message = f"category {number} is {name!r}, but {other!r} in {panoptic.file.path}"
            problems.append(Problem("category of another name", instances.file.path, message, None))
            paired[number] = same_ids[number]  # so that its objects are not problems as well
    if moved:
        notes.add("object categories are paired by name", listed(moved, _SHOWN), len(moved))
    else:  # ids that the instances JSON uses without listing them
        paired = {number: identifier for number, identifier in same_ids.items() if number not in names} | paired
    return paired
