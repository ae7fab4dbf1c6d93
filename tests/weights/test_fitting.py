"""Which rows of a checkpoint belong to which rows of a network with other categories."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from panoptic_cli.models.class_axes import UNUSED, ClassAxis, ClassLabel
from panoptic_cli.weights.fitting import first_that_fits, fit, match_rows, take

BACKGROUND = ClassLabel("background")


def axis(*names: str, axis: int = 0, repeats: int = 1, start: int = 1) -> ClassAxis:
    """The background, then categories with ids from `start` on; "" is an unused class."""
    labels = (ClassLabel(name, start + place) if name else UNUSED for place, name in enumerate(names))
    return ClassAxis(axis, (BACKGROUND, *labels), repeats)


def pairs(ours: ClassAxis, theirs: ClassAxis) -> dict[int, int]:
    rows = match_rows(ours, theirs)
    assert rows is not None
    return dict(zip(rows.ours.tolist(), rows.theirs.tolist(), strict=True))


def test_categories_are_matched_by_name_and_roles_by_role() -> None:
    assert pairs(axis("cat", "dog"), axis("dog", "cow", "cat", start=50)) == {0: 0, 1: 3, 2: 1}
    assert pairs(axis(" Café", "dog"), axis("cafe\u0301", "DOG")) == {0: 0, 1: 1, 2: 2}  # case, spaces, Unicode form
    assert pairs(axis("background"), axis("cat")) == {0: 0}  # a category of that name is not the background
    assert pairs(axis("cat", "", "dog"), axis("", "cat")) == {0: 0, 1: 2}  # unused classes are nothing


def test_ids_decide_between_equal_names() -> None:
    assert pairs(axis("cat", "cat", "dog"), axis("dog", "cat", "cat")) == {0: 0, 2: 2, 3: 1}


def test_axes_of_different_kinds_have_no_rows() -> None:
    assert match_rows(axis("cat"), axis("cat", axis=1)) is None
    assert match_rows(axis("cat"), axis("cat", repeats=4)) is None


NAMES = st.lists(st.sampled_from(["", *"abcdef"]), max_size=7).filter(
    lambda x: len([*filter(None, x)]) == len({*x} - {""})
)


@given(NAMES, NAMES, st.sampled_from([1, 4]), st.integers(0, 2))
def test_rows_move_as_in_a_slow_implementation(ours: list[str], theirs: list[str], repeats: int, place: int) -> None:
    ours_axis, theirs_axis = (axis(*names, axis=place, repeats=repeats) for names in (ours, theirs))
    shape = [2, 3, 2]
    rng = np.random.default_rng(0)
    initial, values = (
        rng.standard_normal([*shape[:place], one.size, *shape[place + 1 :]]) for one in (ours_axis, theirs_axis)
    )
    expected = initial.copy()
    ours_view, theirs_view = np.moveaxis(expected, place, 0), np.moveaxis(values, place, 0)
    for i, name in enumerate(["background", *ours]):
        for j, other in enumerate(["background", *theirs]):
            if name and name == other:
                ours_view[i * repeats : (i + 1) * repeats] = theirs_view[j * repeats : (j + 1) * repeats]
    rows = match_rows(ours_axis, theirs_axis)
    assert rows is not None
    before = initial.copy()
    np.testing.assert_array_equal(take(values, initial, rows), expected)
    np.testing.assert_array_equal(initial, before)


OURS = {"backbone": (3, 8), "neck": (8, 8), "head/kernel": (8, 3), "head/bias": (3,)}
OUR_AXES = {"head/kernel": axis("cat", "dog", axis=1), "head/bias": axis("cat", "dog")}


def test_equal_categories_are_loaded_whole() -> None:
    found = fit(OURS, OURS, OUR_AXES, OUR_AXES)
    assert found.complete
    assert found.whole == tuple(OURS)


def test_other_categories_are_loaded_by_rows_and_other_layers_by_shape() -> None:
    theirs = {"backbone": (3, 8), "neck": (8, 4), "head/kernel": (8, 4), "head/bias": (4,)}
    their_axes = {"head/kernel": axis("cow", "dog", "pig", axis=1), "head/bias": axis("cow", "dog", "pig")}
    found = fit(OURS, theirs, OUR_AXES, their_axes, ["neck2"])
    assert found.whole == ("backbone",)
    assert {name: rows.theirs.tolist() for name, rows in found.rows.items()} == {
        "head/kernel": [0, 2],
        "head/bias": [0, 2],
    }
    assert found.missing == {"neck": "is [8, 4] in the checkpoint and [8, 8] here"}
    assert (found.kept, found.new) == (("dog",), ("cat",))
    assert str(found) == (
        "1 variable whole, 2 in part (rows of 1 of 2 categories: dog), "
        "1 not at all (neck is [8, 4] in the checkpoint and [8, 8] here), 1 of the checkpoint are not used (neck2)"
    )
    assert len(found.problems()) == 4


def test_the_same_shapes_with_other_categories_are_not_the_same() -> None:
    their_axes = {"head/kernel": axis("cow", "pig", axis=1), "head/bias": axis("cow", "pig")}
    found = fit(OURS, OURS, OUR_AXES, their_axes)
    assert {name: rows.ours.tolist() for name, rows in found.rows.items()} == {"head/kernel": [0], "head/bias": [0]}
    assert "none of the 2 categories has the same name" in str(found)


def test_rows_of_another_width_do_not_fit() -> None:
    theirs = {**OURS, "head/kernel": (16, 4), "head/bias": (4,)}
    their_axes = {"head/kernel": axis("cow", "dog", "pig", axis=1), "head/bias": axis("cow", "dog", "pig")}
    found = fit(OURS, theirs, OUR_AXES, their_axes)
    assert [*found.rows] == ["head/bias"]
    assert found.missing == {"head/kernel": "is [16, 4] in the checkpoint and [8, 3] here"}


@pytest.mark.parametrize(("classes", "words"), [(3, "taken to be the same"), (4, "are not known, so no rows")])
def test_unknown_categories(classes: int, words: str) -> None:
    theirs = {**OURS, "head/kernel": (8, classes)}
    found = fit(OURS, theirs, OUR_AXES, None)
    heads = [] if classes == 4 else ["head/kernel", "head/bias"]
    assert found.whole == ("backbone", "neck", *heads)
    assert not found.rows
    assert re.search(f"{words}.*--init-categories", found.note)


def test_the_candidate_with_the_right_numbers_of_classes_is_found() -> None:
    one, two = ({"head/bias": axis(*names)} for names in (("cat",), ("cat", "dog")))
    assert first_that_fits([one, two], {"head/bias": (3,)}) == two
    assert first_that_fits([one, two], {"head/bias": (5,)}) is None
    padded = first_that_fits([one], {"head/bias": (4,)}, padded=True)
    assert padded is not None
    assert padded["head/bias"].labels == (BACKGROUND, ClassLabel("cat", 1), UNUSED, UNUSED)
    assert first_that_fits([two], {"head/bias": (2,)}, padded=True) is None
    assert first_that_fits([two], {"other": (3,)}) is None


def test_axes_survive_json() -> None:
    import json

    value = axis("cat", "", "dog", axis=3, repeats=4)
    assert ClassAxis.from_json(json.loads(json.dumps(value.to_json()))) == value
