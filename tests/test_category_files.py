"""Category files of other programs: any invalid content is one error that names the entry."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from panoptic_cli.categories import CategoryTable, read_categories
from panoptic_cli.errors import DataError

ENTRY = {"id": 3, "name": "tree", "isthing": 0, "color": [1, 2, 3]}
ODD: dict[str, tuple[Any, str]] = {
    "colour is a number": ({"color": 5}, "color must be three integers"),
    "colour is true": ({"color": True}, "color must be three integers"),
    "colour has a true": ({"color": [True, 0, 0]}, "color must be three integers"),
    "colour is a string": ({"color": "red"}, "color must be three integers"),
    "colour is an object": ({"color": {"r": 1, "g": 2, "b": 3}}, "color must be three integers"),
    "colour has fractions": ({"color": [0.5, 0.5, 0.5]}, "color must be three integers"),
    "colour is too bright": ({"color": [0, 0, 256]}, "color must be three integers"),
    "name is null": ({"name": None}, "has no name"),
    "id is a word": ({"id": "three"}, "id must be an integer"),
    "id is a list": ({"id": [3]}, "id must be an integer"),
    "id is true": ({"id": True}, "id must be an integer"),
    "id has 400 digits": ({"id": 10**400}, "id must be an integer"),
    "isthing is a word": ({"isthing": "yes"}, "isthing must be 0 or 1"),
    "isthing is a list": ({"isthing": [1]}, "isthing must be 0 or 1"),
    "isthing is an object": ({"isthing": {}}, "isthing must be 0 or 1"),
}


def _read(folder: Path, value: Any) -> CategoryTable:
    path = folder / "categories.json"
    path.write_text(json.dumps(value))
    return read_categories(path)


@pytest.mark.parametrize("name", ODD)
def test_odd_entries_are_named(tmp_path: Path, name: str) -> None:
    change, message = ODD[name]
    with pytest.raises(DataError, match=message) as caught:
        _read(tmp_path, [{**ENTRY, "id": 1}, {**ENTRY, **change}])
    assert "categories.json" in caught.value.message
    assert "categories[1]" in caught.value.message
    assert len(caught.value.message) < 400


@pytest.mark.parametrize("key", ["id", "name", "isthing"])
def test_a_missing_key_is_named(tmp_path: Path, key: str) -> None:
    with pytest.raises(DataError, match=rf"categories\[0\] .* has no {key}"):
        _read(tmp_path, [{k: v for k, v in ENTRY.items() if k != key}])


@pytest.mark.parametrize("value", [None, 7, "text", {}, {"categories": 5}, [], [None], [[]]])
def test_invalid_tables_are_errors(tmp_path: Path, value: Any) -> None:
    with pytest.raises(DataError, match=r"categories\.json"):
        _read(tmp_path, value)


@pytest.mark.parametrize("entry", [{}, {"color": None}, {"color": []}])
def test_a_category_without_a_colour_gets_one(tmp_path: Path, entry: dict[str, Any]) -> None:
    table = _read(tmp_path, [{"id": 3, "name": "tree", "isthing": 0, **entry}])
    assert table.categories[0].color != (0, 0, 0)
    assert _read(tmp_path, table.to_list()) == table


def test_other_spellings_of_a_table_are_read(tmp_path: Path) -> None:
    plain = [
        {"id": 3, "name": "tree", "isthing": 0, "color": [1, 2, 255]},
        {"id": 12, "name": "cat", "isthing": 1, "color": [255, 0, 0]},
    ]
    other = [
        {"id": "3", "name": "tree", "isthing": False, "color": "#0102fF"},
        {"id": 12.0, "name": "cat", "isthing": "1", "color": [255.0, 0, 0]},
    ]
    assert _read(tmp_path, other) == _read(tmp_path, plain)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=4,
)


@settings(suppress_health_check=list(HealthCheck))
@given(key=st.sampled_from(["id", "name", "isthing", "color", "supercategory"]), value=_JSON)
def test_any_value_gives_a_table_or_one_error(tmp_path: Path, key: str, value: Any) -> None:
    try:
        table = _read(tmp_path, [{**ENTRY, key: value}])
    except DataError:
        return
    assert _read(tmp_path, table.to_list()) == table
