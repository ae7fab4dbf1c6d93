"""The category table and the two label spaces."""

from __future__ import annotations

import json

import numpy as np
import pytest

from panoptic_cli.categories import CategoryTable, LabelSpace
from panoptic_cli.errors import ConfigError, DataError


def _table(*entries: tuple[int, int]) -> CategoryTable:
    return CategoryTable.from_list([{"id": i, "name": f"c{i}", "isthing": t} for i, t in entries], "test")


def test_table_order_classes_count_things_and_stuff_apart() -> None:
    space = LabelSpace.create(_table((7, 1), (3, 0), (900, 0), (2, 1)))
    assert space.num_classes == 3
    assert space.num_semantic_classes == 4
    assert space.thing_ids.tolist() == [0, 7, 2]
    assert space.semantic_ids.tolist() == [0, 0, 3, 900]
    assert space.thing_class_of_id[[7, 2, 3, 900]].tolist() == [1, 2, 0, 0]
    assert space.semantic_class_of_id[[7, 2, 3, 900, 5]].tolist() == [1, 1, 2, 3, 0]


def test_the_references_label_space_keeps_ids() -> None:
    space = LabelSpace.create(_table((1, 1), (90, 1), (92, 0), (200, 0)), 90, 91, 111)
    assert space.thing_class_of_id[[1, 90]].tolist() == [1, 90]
    assert space.semantic_class_of_id[[1, 92, 200]].tolist() == [1, 2, 110]
    # classes that no category of the table has keep the id the offset gives, as in the reference
    assert np.array_equal(space.semantic_ids[2:], np.arange(92, 201))


def test_categories_that_do_not_fit_are_all_named() -> None:
    with pytest.raises(ConfigError) as caught:
        LabelSpace.create(_table((95, 1), (300, 0), (1, 1)), 90, 91, 111)
    assert "95 (c95)" in str(caught.value)
    assert "300 (c300)" in str(caught.value)


def test_a_table_of_things_or_stuff_alone() -> None:
    only_things, only_stuff = LabelSpace.create(_table((1, 1))), LabelSpace.create(_table((1, 0)))
    assert (only_things.num_classes, only_things.num_semantic_classes) == (2, 2)
    assert (only_stuff.num_classes, only_stuff.num_semantic_classes) == (1, 3)


def test_every_bad_entry_is_reported() -> None:
    entries = [
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
    for part in ("file.json", "id 1 is there twice", "not 0", "no isthing", "not 2", "color", "not an object"):
        assert part in message


def test_file_round_trip(tmp_path) -> None:
    table = _table((4, 1), (2, 0))
    for content in (table.to_list(), {"categories": table.to_list()}):
        path = tmp_path / "categories.json"
        path.write_text(json.dumps(content))
        assert CategoryTable.from_file(path) == table


def test_default_colours_differ() -> None:
    table = _table(*((i, 1) for i in range(1, 101)))
    assert len({c.color for c in table.categories}) == 100


@pytest.mark.shared
def test_coco_fits_the_published_label_space(coco100) -> None:
    table = CategoryTable.from_file(coco100 / "annotations" / "panoptic_val2017.json")
    assert (len(table.things), len(table.stuff)) == (80, 53)
    space = LabelSpace.create(table, 90, 91, 111)
    assert {space.thing_ids[space.thing_class_of_id[c.id]] for c in table.things} == {c.id for c in table.things}
    assert {space.semantic_ids[space.semantic_class_of_id[c.id]] for c in table.stuff} == {c.id for c in table.stuff}
