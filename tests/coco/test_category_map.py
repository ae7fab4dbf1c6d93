"""Category maps: renaming, merging, renumbering and dropping categories."""

from __future__ import annotations

from pathlib import Path

import pytest

from panoptic_cli.categories import Category, CategoryTable
from panoptic_cli.coco.category_map import CategoryMap, read_category_map
from panoptic_cli.errors import ConfigError

TABLE = CategoryTable(
    tuple(
        Category(identifier, name, isthing, (identifier, 0, 0))
        for identifier, name, isthing in (
            (2, "car", True),
            (3, "truck", True),
            (5, "7", True),
            (7, "no", True),
            (11, "grass", False),
            (12, "dirt", False),
        )
    )
)


def _read(folder: Path, text: str) -> CategoryMap:
    path = folder / "map.yaml"
    path.write_text(text)
    return read_category_map(path, TABLE)


def _table(found: CategoryMap) -> list[tuple[int, str, bool]]:
    return [(c.id, c.name, c.isthing) for c in found.table.categories]


def test_categories_are_merged_renumbered_and_dropped(tmp_path: Path) -> None:
    found = _read(
        tmp_path, "truck: car\n11: {name: ground, id: 1}\ndirt: ground\n7: drop\nno: {name: 'yes', isthing: 0}\n"
    )
    assert _table(found) == [(2, "car", True), (7, "yes", False), (1, "ground", False)]
    assert found.new_ids == {2: 2, 3: 2, 7: 7, 11: 1, 12: 1}  # the key 7 is the category of that name, not of that id
    assert str(found) == "6 categories become 3; dropped: 7"


def test_what_is_not_named_stays_or_follows_the_rule_for_all_others(tmp_path: Path) -> None:
    assert _table(_read(tmp_path, "grass: thing\n")) == [
        (c.id, c.name, c.isthing or c.name == "grass") for c in TABLE.categories
    ]
    found = _read(tmp_path, "car: vehicle\ngrass: {isthing: 0}\n'*': drop\n")
    assert _table(found) == [(2, "vehicle", True), (11, "grass", False)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cra: drop\n", "there is no category cra (did you mean car?)"),
        ("13: drop\n", "there is no category 13 (known: 7, car, dirt, grass, no, truck)"),
        ("car: grass\n", "grass merges things and stuff: car (thing), grass (stuff); set isthing"),
        ("car: {id: 3}\n", "car and truck both get the id 3"),
        ("car: {name: x, id: 1}\ntruck: {name: x, id: 2}\n", "x gets several ids: 1, 2"),
        ("car: drop\n2: drop\n", "car is there twice, also as id 2"),
        ("car: drop\ncar: x\n", "line 2: car is there twice"),
        ("'*': drop\n", "it drops every category"),
        ("car: {isthing: maybe}\n", "line 1, car: isthing must be 0 or 1, not 'maybe'"),
        ("car: {id: 70000}\n", "id must be an integer from 1 to 65535"),
        ("car: {kind: thing}\n", "there is no field kind"),
        ("car: Stuf\n", "did you mean stuff? A name that is like it is written {name: Stuf}"),
        ("car:\n", "it has no value"),
        ("car: [a, b]\n", "a list is not a value"),
        ("- car\n", "must be a mapping"),
        ("car: {\n", "is not valid YAML"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        _read(tmp_path, text)
    assert message in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"map\.yaml does not exist"):
        read_category_map(tmp_path / "map.yaml", TABLE)
