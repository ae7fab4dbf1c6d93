"""The list of pictures in a COCO JSON, and the files that it names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from panoptic_cli.coco.image_info import ImageInfo, ListedPicture, find_listed, read_image_info
from panoptic_cli.errors import DataError


def info_of(folder: Path, *images: Any, **more: Any) -> ImageInfo:
    path = folder / "image_info_test-dev2017.json"
    path.write_text(json.dumps({"images": list(images), **more}))
    return read_image_info(path)


def entry(identifier: Any, name: str, **more: Any) -> dict[str, Any]:
    return {"id": identifier, "file_name": name, **more}


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "test2017"
    folder.mkdir()
    for name in ("a.jpg", "B.JPG", "c.jpg"):
        (folder / name).write_bytes(b"")
    return folder


def test_ids_names_and_sizes(tmp_path: Path) -> None:
    images = [entry(9, "c.jpg", height=4, width=6), entry("0007", "a.jpg"), entry("x", "b.jpg", height=0, width=2)]
    info = info_of(tmp_path, *images, categories=[{"id": 1, "name": "person"}, 5])
    assert info.pictures == [ListedPicture(9, "c.jpg", (4, 6)), ListedPicture(7, "a.jpg"), ListedPicture("x", "b.jpg")]
    assert info.categories == {1: "person"}
    assert info.set_name == "test-dev2017"


@pytest.mark.parametrize(
    ("name", "expected"), [("panoptic_val2017", "val2017"), ("mine", "mine"), ("instances_x", "x")]
)
def test_the_name_of_the_set(name: str, expected: str) -> None:
    assert ImageInfo(Path(f"annotations/{name}.json"), [], [], {}).set_name == expected


def test_files_are_found_in_the_order_of_the_list(
    tmp_path: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    info = info_of(tmp_path, entry(5, "c.jpg"), entry(2, "test2017/a.jpg"), entry(3, "b.jpg"))
    found = find_listed(info, pictures)
    assert [(path.name, picture.image_id) for path, picture in found.items()] == [
        ("c.jpg", 5),
        ("a.jpg", 2),
        ("B.JPG", 3),
    ]
    printed = capsys.readouterr().err
    assert "1 file names with folders that do not exist: the last part is used" in printed
    assert "1 file names that differ from the disk in case" in printed
    absolute = info_of(tmp_path, entry(5, "/data/coco/c.jpg"))
    assert list(find_listed(absolute, pictures)) == [pictures / "c.jpg"]


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([entry(1, "a.jpg"), entry(2, "gone.jpg"), entry(3, "/no/way.jpg")], "2 are missing: gone.jpg, /no/way.jpg"),
        ([entry(1, "gone.jpg")], "has none of the 1 pictures"),
        ([entry(1, "a.jpg"), entry(2, "a.jpg")], "lists files twice: a.jpg"),
        ([entry(1, "a.jpg"), entry("001", "c.jpg")], "lists image ids twice: 1"),
        ([entry(1, "a.jpg"), {"id": 2}, 7], r"an id or a file_name: images\[1\], images\[2\]"),
        ([], "lists no pictures"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, pictures: Path, images: list[Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        find_listed(info_of(tmp_path, *images), pictures)


def test_no_list(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("[1]")
    with pytest.raises(DataError, match="has no list of images"):
        read_image_info(tmp_path / "x.json")
