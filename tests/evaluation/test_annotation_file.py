"""Annotation files as people have them: put right with a line, or refused with file, picture and annotation."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pycocotools import mask as mask_utils

from panoptic_cli.categories import CategoryTable
from panoptic_cli.errors import DataError
from panoptic_cli.evaluation.annotation_file import InstanceAnnotations, read_annotation_file
from panoptic_cli.records.headers import RecordHeader

TABLE = CategoryTable.from_list(
    [
        {"id": 7, "name": "circle", "isthing": 1},
        {"id": 2, "name": "square", "isthing": 1},
        {"id": 5, "name": "grass", "isthing": 0},
    ],
    "test",
)
HEIGHT, WIDTH = 60, 80
PICTURES = [RecordHeader("val.tfrecord", i, f"{i:04}.jpg", HEIGHT, WIDTH, frozenset({7, 2})) for i in (3, 14, 15)]
SQUARE = [10, 10, 50, 10, 50, 50, 10, 50]  # 1,600 pixels
CROWD = {"size": [HEIGHT, WIDTH], "counts": [100, 50, HEIGHT * WIDTH - 150]}
Change = Callable[[dict[str, Any]], Any]


def instances() -> dict[str, Any]:
    images = [{"id": p.image_id, "file_name": p.file_name, "width": WIDTH, "height": HEIGHT} for p in PICTURES]
    square = {"category_id": 2, "bbox": [10, 10, 40, 40], "area": 1600.0, "iscrowd": 0, "segmentation": [SQUARE]}
    crowd = {"category_id": 7, "bbox": [1, 1, 4, 50], "area": 50, "iscrowd": 1, "segmentation": CROWD}
    annotations = [{"id": 30 + i, "image_id": p.image_id, **square} for i, p in enumerate(PICTURES)]
    annotations.append({"id": 40, "image_id": 14, **crowd})
    return {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": c.id, "name": c.name} for c in TABLE.things],
    }


@pytest.fixture
def read(tmp_path: Path) -> Callable[[Change], InstanceAnnotations]:
    def run(change: Change) -> InstanceAnnotations:
        content = instances()
        change(content)
        (tmp_path / "mine.json").write_text(json.dumps(content))
        return read_annotation_file(tmp_path / "mine.json", TABLE, PICTURES)

    return run


def objects(found: InstanceAnnotations, *, masks: bool = True) -> list[dict[str, Any]]:
    return list(found.to_coco(TABLE, masks=masks)["annotations"])


def first(**changes: Any) -> Change:
    return lambda content: content["annotations"][0].update(changes)


def test_a_sound_file_is_taken_as_it_is(read: Callable[[Change], InstanceAnnotations]) -> None:
    found = read(lambda content: None)
    assert found.notes == []
    assert [i["id"] for i in found.images] == [3, 14, 15]
    assert [(o["image_id"], o["category_id"], o["area"], o["iscrowd"]) for o in objects(found)] == [
        *((i, 2, 1600.0, 0) for i in (3, 14, 15)),
        (14, 7, 50, 1),
    ]
    assert objects(found)[0]["segmentation"] == mask_utils.merge(mask_utils.frPyObjects([SQUARE], HEIGHT, WIDTH))
    assert mask_utils.area(objects(found)[-1]["segmentation"]) == 50


def renamed(change: Callable[[Any], Any]) -> Change:
    def rename(content: dict[str, Any]) -> None:
        for image in content["images"]:
            image["id"] = change(image["id"])
        for annotation in content["annotations"]:
            annotation["image_id"] = change(annotation["image_id"])

    return rename


def swapped(content: dict[str, Any]) -> None:
    for entry in content["categories"]:
        entry["id"] = {2: 0, 7: 2}[entry["id"]]
    for annotation in content["annotations"]:
        annotation["category_id"] = {2: 0, 7: 2}[annotation["category_id"]]


@pytest.mark.parametrize(
    ("change", "note"),
    [
        (first(area=None), "1 objects of .*mine.json have no area: their pixels are counted"),
        (first(area="1600"), "1 objects .* numbers written as text"),
        (first(area=1.0), "an area of another class of size than their outlines have: their pixels are"),
        (first(bbox=None), "no box of four numbers: that of their outlines is taken"),
        (first(bbox=[1, 2, 3]), "no box of four numbers"),
        (first(bbox=["10", "10", 40, 40]), "numbers written as text"),
        (first(segmentation=SQUARE), "polygons that are not in a list; they are taken as"),
        (first(segmentation=[SQUARE[i : i + 2] for i in range(0, 8, 2)]), "polygons of x, y pairs"),
        (first(segmentation=[[10, 10, 10, 15], SQUARE]), "pieces of fewer than three points"),
        (first(segmentation=[[str(x) for x in SQUARE]]), "coordinates written as text"),
        (first(iscrowd=None), None),
        (first(iscrowd="0"), None),
        (first(iscrowd=False), None),
        (first(category_id="2"), "numbers written as text"),
        (first(category_id=2.0), None),
        (first(id=40), None),
        (lambda c: c["images"].append(dict(c["images"][0])), None),
        (lambda c: [i.pop("width") for i in c["images"]], "no sizes for 3 pictures: they are taken from the records"),
        (lambda c: [i.update(height=-1) for i in c["images"]], "no sizes for 3 pictures"),
        (lambda c: [i.update(height="60") for i in c["images"]], None),
        (renamed(str), "image ids that are text"),
        (renamed(float), None),
        (renamed(lambda i: f"{i:012}"), "image ids that are text"),
        (renamed(lambda i: f"town_{i}"), r"paired by file name \(0003.jpg is town_3 there, 3 here\)"),
        (renamed({3: 14, 14: 15, 15: 3}.get), "paired by file name"),
        (swapped, r"paired by name \('circle' is 2 there, 7 here\)"),
        (lambda c: [i.update(file_name=f"val2017\\{i['file_name']}") for i in c["images"]], None),
        (lambda c: c["annotations"].append({"id": 9, "image_id": 99}), "1 objects .* belong to no image of the file"),
    ],
)
def test_what_is_clear_counts_as_if_it_were_right(
    read: Callable[[Change], InstanceAnnotations], change: Change, note: str | None
) -> None:
    sound, found = read(lambda content: None), read(change)
    ours = sorted(objects(found), key=lambda o: (o["image_id"], o["iscrowd"]))
    assert ours == sorted(objects(sound), key=lambda o: (o["image_id"], o["iscrowd"]))
    assert found.images == sound.images
    if note is None:
        assert found.notes == []
    else:
        (line,) = found.notes
        assert re.search(note, line), line


@pytest.mark.parametrize("segmentation", [[], None, [[10, 10, 50, 50]]])
def test_an_object_without_outline_counts_for_boxes_alone(
    read: Callable[[Change], InstanceAnnotations], segmentation: Any
) -> None:
    found = read(first(segmentation=segmentation))
    assert len(objects(found, masks=False)) == 4
    assert len(objects(found)) == 3
    assert "have no outline: box AP counts them, mask AP does not (first: annotation 30 of image 3)" in found.notes[0]
    assert len(objects(read(first(segmentation=segmentation, bbox=None)), masks=False)) == 3


def test_objects_of_stuff_do_not_count(read: Callable[[Change], InstanceAnnotations]) -> None:
    def change(content: dict[str, Any]) -> None:
        content["categories"].append({"id": 5, "name": "Grass"})
        content["annotations"][0]["category_id"] = 5

    found = read(change)
    assert len(objects(found)) == 3
    assert "1 objects" in found.notes[0]
    assert "stuff" in found.notes[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (first(segmentation=[[1, 2, 3, 4, 5]]), r"a polygon has 5 numbers.*\(annotations\[0\], id 30, of image 3\)"),
        (first(segmentation=[[1, 2, 3, 4, 5, "six"]]), "not a list of numbers"),
        (first(segmentation=[[1, 2, 3, 4, 5, float("nan")]]), "not a list of numbers"),
        (first(segmentation="outline"), "neither a list of polygons nor a run-length mask"),
        (first(segmentation={**CROWD, "size": [10, 10]}), r"size \[10, 10\] in a picture of \[60, 80\]"),
        (first(segmentation={**CROWD, "size": [WIDTH, HEIGHT]}), r"size \[80, 60\] in a picture of \[60, 80\]"),
        (first(segmentation={**CROWD, "counts": [20, 30]}), "do not add up"),
        (first(segmentation={"size": [HEIGHT, WIDTH]}), "no counts"),
        (first(iscrowd=2), "iscrowd is 2"),
        (first(category_id=99), r"categories that it does not list: 99 \(annotations\[0\], id 30, of image 3\)"),
        (first(category_id=None), "categories that it does not list: None"),
        (lambda c: c["categories"][0].update(name="disc"), r"categories that the model does not have: 7 'disc'"),
        (lambda c: c["images"].pop(), r"lacks 1 of the 3 pictures of the records: 15 0015.jpg"),
        (
            lambda c: [i.update(width=2 * WIDTH) for i in c["images"]],
            r"for 3 of 3 pictures: 3 0003.jpg is 160 x 60 there",
        ),
        (
            lambda c: [i.update(file_name=f"other{i['id']}.jpg") for i in c["images"]],
            "3 is 0003.jpg in the records, other3",
        ),
        (lambda c: c.pop("categories"), "no list of categories"),
        (lambda c: c.update(annotations=[{"image_id": 3, "segments_info": []}]), r"mine.json is a panoptic JSON"),
        (lambda c: c.update(annotations=[{"image_id": 3, "caption": "shapes"}]), "is a captions JSON"),
        (lambda c: c["annotations"].append(5), r"not a COCO instances JSON: Expected `object`.*annotations\[4\]"),
    ],
)
def test_what_is_not_clear_is_named(
    read: Callable[[Change], InstanceAnnotations], change: Change, message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read(change)
    assert "mine.json" in caught.value.message


def test_problems_of_one_kind_are_counted(read: Callable[[Change], InstanceAnnotations]) -> None:
    def change(content: dict[str, Any]) -> None:
        content["annotations"] = [{**copy.deepcopy(content["annotations"][0]), "segmentation": [[1, 2, 3]]}] * 8

    with pytest.raises(DataError) as caught:
        read(change)
    assert caught.value.message.startswith("8 objects of ")
    assert caught.value.message.count("a polygon has 3 numbers") == 3
    assert "and 5 more" in caught.value.message


@pytest.mark.shared
def test_real_areas_are_sound(coco100: Path) -> None:
    path = coco100 / "annotations" / "instances_train2017.json"
    content = json.loads(path.read_text())
    table = CategoryTable.from_list([{**c, "isthing": 1} for c in content["categories"]], "COCO")
    pictures = [
        RecordHeader("", i["id"], i["file_name"], i["height"], i["width"], frozenset()) for i in content["images"]
    ]
    found = read_annotation_file(path, table, pictures)
    assert found.notes == []
    assert [o["area"] for o in objects(found, masks=False)] == [a["area"] for a in content["annotations"]]
