"""Label spaces: classes in table order, and classes with the reference's offset."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from panoptic_cli.categories import MAX_CATEGORY_ID, CategoryTable, read_categories
from panoptic_cli.errors import ConfigError
from panoptic_cli.models.panoptic_fpn.label_space import LabelSpace


def _table(*entries: tuple[int, int]) -> CategoryTable:
    """Returns a table of (id, isthing)."""
    return CategoryTable.from_list([{"id": i, "name": f"c{i}", "isthing": t} for i, t in entries], "test")


def test_classes_in_table_order_number_things_and_stuff_separately() -> None:
    space = LabelSpace.create(_table((7, 1), (3, 0), (900, 0), (2, 1)))
    assert space.num_classes == 3
    assert space.num_semantic_classes == 4
    assert space.thing_ids.tolist() == [0, 7, 2]
    assert space.semantic_ids.tolist() == [0, 0, 3, 900]
    assert space.thing_class_of_id[[7, 2, 3, 900]].tolist() == [1, 2, 0, 0]
    assert space.semantic_class_of_id[[7, 2, 3, 900, 5]].tolist() == [1, 1, 2, 3, 0]


def test_classes_with_an_offset_keep_ids() -> None:
    space = LabelSpace.create(_table((1, 1), (90, 1), (92, 0), (200, 0)), 90, 91, 111)
    assert space.thing_class_of_id[[1, 90]].tolist() == [1, 90]
    assert space.semantic_class_of_id[[1, 92, 200]].tolist() == [1, 2, 110]
    # Classes without a category in the table keep the id of the offset, as in the reference.
    assert np.array_equal(space.semantic_ids[2:], np.arange(92, 201))
    assert space.stuff_id_of_class[[2, 3, 110]].tolist() == [92, 0, 200]


def test_all_categories_that_do_not_fit_are_named() -> None:
    with pytest.raises(ConfigError) as caught:
        LabelSpace.create(_table((95, 1), (300, 0), (1, 1)), 90, 91, 111)
    assert "95 (c95)" in str(caught.value)
    assert "300 (c300)" in str(caught.value)


def test_a_table_may_have_only_things_or_only_stuff() -> None:
    only_things, only_stuff = LabelSpace.create(_table((1, 1))), LabelSpace.create(_table((1, 0)))
    assert (only_things.num_classes, only_things.num_semantic_classes) == (2, 2)
    assert (only_stuff.num_classes, only_stuff.num_semantic_classes) == (1, 3)


def test_ids_too_large_for_records_are_an_error() -> None:
    assert len(LabelSpace.create(_table((MAX_CATEGORY_ID, 0))).semantic_class_of_id) == MAX_CATEGORY_ID + 1
    for identifier in (MAX_CATEGORY_ID + 1, 10**12):  # arrays for the second one would need 4 TB
        with pytest.raises(ConfigError, match=f"{identifier} is too large: records hold ids up to 65535"):
            LabelSpace.create(_table((identifier, 0)))


@pytest.mark.shared
def test_coco_fits_the_label_space_of_the_reference(coco100: Path) -> None:
    table = read_categories(coco100 / "annotations" / "panoptic_val2017.json")
    space = LabelSpace.create(table, 90, 91, 111)
    assert {space.thing_ids[space.thing_class_of_id[c.id]] for c in table.things} == {c.id for c in table.things}
    assert {space.semantic_ids[space.semantic_class_of_id[c.id]] for c in table.stuff} == {c.id for c in table.stuff}
