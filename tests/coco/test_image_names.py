"""Image ids, and the same picture in two files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from panoptic_cli.coco.image_ids import image_key
from panoptic_cli.coco.image_info import choose_image_ids
from panoptic_cli.coco.image_names import NameIndex, pair_images, same_name
from panoptic_cli.errors import DataError


@pytest.mark.parametrize(
    ("value", "key"),
    [
        *((value, 139) for value in (139, 139.0, "139", "000000000139")),
        ("town_1", "town_1"),
        *((value, None) for value in (None, True, 1.5, "", [1])),
    ],
)
def test_ids_have_one_form(value: Any, key: Any) -> None:
    assert image_key(value) == key


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("1.jpg", "/data/images/1.jpg", True),
        ("1.jpg", "images\\1.png", True),
        ("a/1.jpg", "b/1.jpg", False),
        ("1.jpg", "11.jpg", False),
        ("Town_1.JPG", "images/town_1.jpg", True),
        ("caf\u00e9.jpg", "cafe\u0301.jpg", True),
    ],
)
def test_names(one: str, other: str, same: bool) -> None:
    assert same_name(one, other) == same_name(other, one) == same


def test_ids_count_where_names_do_not_contradict_them() -> None:
    for theirs in ({1: "", 2: ""}, {1: "1.png", 2: "x/2.png", 3: "3.png"}):
        pairing = pair_images({1: "1.jpg", 2: "2.jpg"}, theirs, "ours", "theirs")
        assert (pairing.pairs, pairing.missing, pairing.note) == ({1: 1, 2: 2}, [], None)


def test_names_count_where_ids_are_others() -> None:
    ours = {1: "a/1.jpg", 2: "b/1.jpg", 3: "2.jpg"}
    theirs = {3: "/x/a/1.png", 1: "/x/b/1.png", 2: "/x/2.png", 9: "/x/2.jpg"}
    pairing = pair_images(ours, theirs, "ours", "theirs")
    assert pairing.pairs == {1: 3, 2: 1, 3: 9}
    assert pairing.note is not None
    assert "paired by file name (a/1.jpg is 3 there, 1 here)" in pairing.note


def test_of_names_that_differ_in_case_alone_the_equal_one_is_found() -> None:
    index = NameIndex({1: "a.jpg", 2: "A.jpg", 3: "b.jpg"})
    assert [index.find(name) for name in ("A.jpg", "a.jpg", "B.JPG", "a.png")] == [2, 1, 3, None]


def test_what_names_cannot_pair_is_refused() -> None:
    with pytest.raises(DataError, match=r"2 image ids mean different pictures.*1 is a.jpg in ours, c.jpg in theirs"):
        pair_images({1: "a.jpg", 2: "b.jpg"}, {1: "c.jpg", 2: "d.jpg"}, "ours", "theirs")
    assert pair_images({1: "a.jpg", 2: "b.jpg"}, {1: "a.jpg"}, "ours", "theirs").missing == [2]


def test_ids_of_pictures() -> None:
    def ids(*names: str) -> list[int | str]:
        return list(choose_image_ids([Path(name) for name in names]).values())

    assert ids("000000000139.jpg", "x/10.jpg", "9.jpg") == [139, 10, 9]
    assert ids("1.jpg", "cat.jpg") == ["1.jpg", "cat.jpg"]
    assert ids("a/1.jpg", "b/1.jpg") == ["a/1.jpg", "b/1.jpg"]


def test_ids_from_a_file(tmp_path: Path) -> None:
    info = tmp_path / "info.json"
    images = [{"id": 7, "file_name": "cat.jpg"}, {"id": "8", "file_name": "val/dog.jpg"}]
    info.write_text(json.dumps({"images": images}))
    assert list(choose_image_ids([Path("here/val/dog.jpg"), Path("here/cat.jpg")], info).values()) == [8, 7]
    with pytest.raises(DataError, match=r"info.json does not list 1 of 2 pictures: here/cow.jpg"):
        choose_image_ids([Path("here/cat.jpg"), Path("here/cow.jpg")], info)
    info.write_text("[]")
    with pytest.raises(DataError, match="no list of images"):
        choose_image_ids([Path("here/cat.jpg")], info)
