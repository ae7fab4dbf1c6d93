"""The category table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from panoptic_cli.categories import CategoryTable, read_categories
from panoptic_cli.errors import DataError


def _table(*entries: tuple[int, int]) -> CategoryTable:
    """Returns a table of (id, isthing)."""
    return CategoryTable.from_list([{"id": i, "name": f"c{i}", "isthing": t} for i, t in entries], "test")


def test_every_bad_entry_is_reported() -> None:
    entries: list[Any] = [
        {"id": 1, "name": "a", "isthing": 1},
        {"id": 1, "name": "b", "isthing": 0},
        {"id": 0, "name": "c", "isthing": 0},
        {"id": 5, "name": "d"},
        {"id": 6, "name": "e", "isthing": 2},
        {"id": 7, "name": "f", "isthing": 1, "color": [1, 2]},
        "text",
    ]
    with pytest.raises(DataError) as caught:
        CategoryTable.from_list(entries, "file.json")
    message = str(caught.value)
    for part in ("file.json", "id 1 ", "twice", "not 0", "no isthing", "not 2", "color", "not an object"):
        assert part in message


def test_a_table_survives_writing_and_reading(tmp_path: Path) -> None:
    table = _table((4, 1), (2, 0))
    for content in (table.to_list(), {"categories": table.to_list()}):
        path = tmp_path / "categories.json"
        path.write_text(json.dumps(content))
        assert read_categories(path) == table


def test_default_colours_are_distinct() -> None:
    table = _table(*((i, 1) for i in range(1, 101)))
    assert len({c.color for c in table.categories}) == 100


@pytest.mark.shared
def test_coco_has_80_things_and_53_kinds_of_stuff(coco100: Path) -> None:
    table = read_categories(coco100 / "annotations" / "panoptic_val2017.json")
    assert (len(table.things), len(table.stuff)) == (80, 53)
