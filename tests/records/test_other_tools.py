"""Annotations as other tools write them: the records of COCO's form, and one line about what was assumed."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from panoptic_cli.coco.dataset import read_dataset
from panoptic_cli.coco.layout import coco_files, find_splits
from panoptic_cli.errors import DataError
from panoptic_cli.records import schema
from panoptic_cli.records.conversion import ConversionSummary, convert, convert_all
from panoptic_cli.records.plans import ConversionPlan, OnBadData
from panoptic_cli.records.tfrecord import read_records

JSONS = dict[str, Any]  # by _KINDS
Features = dict[str, list[bytes] | np.ndarray]
_KINDS = ("panoptic", "instances")


def _load(data: Path) -> JSONS:
    return {kind: json.loads(_path(data, kind).read_text()) for kind in _KINDS}


def _path(data: Path, kind: str) -> Path:
    return data / "annotations" / f"{kind}_val2017.json"


def _write(data: Path, jsons: JSONS) -> None:
    for kind, value in jsons.items():
        _path(data, kind).write_text(json.dumps(value))


def _records(
    data: Path, target: Path, on_bad_data: OnBadData = "fail"
) -> tuple[ConversionSummary, dict[str, Features]]:
    """Converts the validation split; returns the summary, and the records by file name."""
    plan = ConversionPlan(find_splits(data, ["val"])[0], target, 1, on_bad_data)
    (summary,) = convert_all([plan], 1)
    records = [schema.decode_example(r) for r in read_records(target / "val-00000-of-00001.tfrecord")]
    return summary, {bytes(r[schema.IMAGE_FILENAME][0]).decode(): r for r in records}


def _each(jsons: JSONS, change: Callable[[dict[str, Any]], Any], *, segments: bool = True) -> None:
    """Changes every object and, if asked, every segment."""
    for annotation in jsons["instances"]["annotations"]:
        change(annotation)
    for annotation in jsons["panoptic"]["annotations"] if segments else ():
        for segment in annotation["segments_info"]:
            change(segment)


def _set_ids(jsons: JSONS, new: Callable[[int], Any], kinds: tuple[str, ...] = _KINDS) -> None:
    for kind in kinds:
        for image in jsons[kind]["images"]:
            image["id"] = new(image["id"])
        for annotation in jsons[kind]["annotations"]:
            annotation["image_id"] = new(annotation["image_id"])


def _set_categories(
    jsons: JSONS, new: Callable[[int], Any], kinds: tuple[str, ...] = ("panoptic", "instances")
) -> None:
    for kind in kinds:
        for category in jsons[kind]["categories"]:
            category["id"] = new(category["id"])
    if "instances" in kinds:
        _each(jsons, lambda o: o.update(category_id=new(o["category_id"])), segments="panoptic" in kinds)


def _numbers_as(write: Callable[[int], Any]) -> Callable[[JSONS], None]:
    def change(jsons: JSONS) -> None:
        _set_ids(jsons, write)
        _set_categories(jsons, write)
        _each(jsons, lambda s: s.update(id=write(s["id"]), iscrowd=write(s["iscrowd"])))
        for image in jsons["panoptic"]["images"]:
            image.update(width=write(image["width"]), height=write(image["height"]))

    return change


def _without_sizes(value: Any) -> Callable[[JSONS], None]:
    def change(jsons: JSONS) -> None:
        for image in jsons["panoptic"]["images"]:
            image.update(width=value, height=value)

    return change


def _annotation_ids_restart(jsons: JSONS) -> None:
    seen: dict[int, int] = {}
    for annotation in jsons["instances"]["annotations"]:
        picture = annotation["image_id"]
        seen[picture] = annotation["id"] = seen.get(picture, 0) + 1


def _swap_object_categories(jsons: JSONS) -> None:
    _set_categories(jsons, {2: 7, 7: 2, 31: 31}.__getitem__, ("instances",))


def _next_image(identifier: int) -> int:
    return 200000 + (identifier - 200000 + 3) % 18


def _rotate_unnamed(jsons: JSONS) -> None:
    _set_ids(jsons, _next_image, ("instances",))
    del jsons["instances"]["images"]


def _stub(jsons: JSONS) -> None:
    annotation = next(o for o in jsons["instances"]["annotations"] if not o["iscrowd"])
    annotation["segmentation"].append([0, 0, 9, 9])


def _reshape(jsons: JSONS, shape: Callable[[list[float]], Any]) -> None:
    """Reshapes the outlines of objects that are one polygon."""
    for annotation in jsons["instances"]["annotations"]:
        if isinstance(annotation["segmentation"], list) and len(annotation["segmentation"]) == 1:
            annotation["segmentation"] = shape(annotation["segmentation"][0])


def _empty_segment(jsons: JSONS) -> None:
    jsons["panoptic"]["annotations"][0]["segments_info"].append({"id": 1 << 23, "category_id": 7, "area": 0})


# The records are those of COCO's form, and the line names what was assumed.
SAME: dict[str, tuple[Callable[[JSONS], Any], str]] = {
    "numbers as text": (_numbers_as(str), "numbers written as text"),
    "numbers as floats": (_numbers_as(float), "numbers written as text or as"),
    "flags as booleans": (lambda j: _each(j, lambda s: s.update(iscrowd=bool(s["iscrowd"]))), ""),
    "sizes missing": (_without_sizes(None), "images without width and height"),
    "sizes -1": (_without_sizes(-1), "images without width and height"),
    "annotation ids restart": (_annotation_ids_restart, "annotation ids are missing or occur again"),
    "annotation ids missing": (lambda j: _each(j, lambda o: o.pop("id"), segments=False), "annotation ids are missing"),
    "object twice": (
        lambda j: j["instances"]["annotations"].append(j["instances"]["annotations"][0]),
        "object annotations are there twice",
    ),
    "objects of stuff": (
        lambda j: j["instances"]["annotations"].append({**j["instances"]["annotations"][0], "category_id": 5}),
        "objects of stuff categories",
    ),
    "object categories swapped": (_swap_object_categories, "object categories are paired by name"),
    "object image ids of another set": (
        lambda j: _set_ids(j, lambda i: i + 7, ("instances",)),
        "images are paired with the instances JSON by file name",
    ),
    "object image ids rotated": (
        lambda j: _set_ids(j, _next_image, ("instances",)),
        "images are paired with the instances JSON by file name",
    ),
    "segment without pixels": (_empty_segment, "segments without pixels left out"),
    "areas of segments wrong": (
        lambda j: [s.update(area=1) for a in j["panoptic"]["annotations"] for s in a["segments_info"]],
        "segments whose area is not their number of pixels",
    ),
    "areas of objects 1": (
        lambda j: _each(j, lambda o: o.update(area=1.0), segments=False),
        "object areas of at most 1",
    ),
    "stub of two points": (
        lambda j: next(o for o in j["instances"]["annotations"] if not o["iscrowd"])["segmentation"].append(
            [0, 0, 9, 9]
        ),
        "polygons of fewer than three points",
    ),
    "polygons without a list": (lambda j: _reshape(j, lambda p: p), "polygons that are not in a list"),
    "polygons of pairs": (
        lambda j: _reshape(j, lambda p: [list(pair) for pair in zip(p[::2], p[1::2], strict=True)]),
        "polygons of x, y pairs",
    ),
    "coordinates as text": (
        lambda j: _reshape(j, lambda p: [[str(x) for x in p]]),
        "coordinates written as text",
    ),
    "backslashes": (
        lambda j: [i.update(file_name=".\\" + i["file_name"]) for k in j for i in j[k]["images"]],
        "file names with a backslash",
    ),
    "names in capitals": (
        lambda j: [i.update(file_name=i["file_name"].upper()) for k in j for i in j[k]["images"]],
        "file names that differ from the disk in case",
    ),
}


def _equal(one: Features, other: Features, *, but: tuple[str, ...] = ()) -> None:
    assert one.keys() == other.keys()
    for key in one.keys() - {*but}:
        np.testing.assert_array_equal(np.asarray(one[key]), np.asarray(other[key]), err_msg=key)


@pytest.mark.parametrize("case", SAME)
def test_what_is_clear_gives_the_same_records_and_is_told(dataset: Path, tmp_path: Path, case: str) -> None:
    _, before = _records(dataset, tmp_path / "before")
    change, line = SAME[case]
    jsons = _load(dataset)
    change(jsons)
    _write(dataset, jsons)
    summary, after = _records(dataset, tmp_path / "after")
    assert summary.pictures == 6
    told = [*summary.assumed, *summary.notes]
    assert any(text.startswith(line) for text in told) if line else not told
    plain = {name.removeprefix(".\\").lower(): record for name, record in after.items()}
    for name, record in before.items():
        _equal(record, plain[name], but=(schema.IMAGE_FILENAME,))


@pytest.mark.parametrize("value", [None, []])
def test_an_object_without_an_outline_is_left_out(dataset: Path, tmp_path: Path, value: Any) -> None:
    before, _ = _records(dataset, tmp_path / "before")
    jsons = _load(dataset)
    jsons["instances"]["annotations"][0]["segmentation"] = value
    _write(dataset, jsons)
    after, _ = _records(dataset, tmp_path / "after")
    assert after.objects == before.objects - 1
    assert after.skipped_objects == {**before.skipped_objects, "empty mask": 1}


def test_a_box_of_three_numbers_is_that_of_the_mask(dataset: Path, tmp_path: Path) -> None:
    jsons = _load(dataset)
    _each(jsons, lambda o: o.pop("bbox"), segments=False)
    _write(dataset, jsons)
    _, before = _records(dataset, tmp_path / "before")
    _each(jsons, lambda o: o.update(bbox=[1, 2, 3]), segments=False)
    _write(dataset, jsons)
    summary, after = _records(dataset, tmp_path / "after")
    assert any(text.startswith("boxes that are not [x, y, width, height]") for text in summary.assumed)
    for name, record in before.items():
        _equal(record, after[name])


def test_image_ids_that_are_no_numbers_are_numbered(dataset: Path, tmp_path: Path) -> None:
    _, before = _records(dataset, tmp_path / "before")
    jsons = _load(dataset)
    _set_ids(jsons, lambda i: f"frankfurt_{i}_gtFine")
    _write(dataset, jsons)
    summary, after = _records(dataset, tmp_path / "after")
    names = [image["file_name"] for image in jsons["panoptic"]["images"]]
    assert [bytes(after[name][schema.IMAGE_SOURCE_ID][0]) for name in names] == [b"1", b"2", b"3", b"4", b"5", b"6"]
    assert ["frankfurt" in text and "numbered from 1" in text for text in summary.assumed] == [True]
    for name in names:
        _equal(before[name], after[name], but=(schema.IMAGE_SOURCE_ID,))


def test_category_ids_from_0_are_raised_in_records_and_table(dataset: Path, tmp_path: Path) -> None:
    _, before = _records(dataset, tmp_path / "before")
    jsons = _load(dataset)
    places = {category["id"]: place for place, category in enumerate(jsons["panoptic"]["categories"])}
    _set_categories(jsons, places.__getitem__)
    _write(dataset, jsons)
    summary, after = _records(dataset, tmp_path / "after")
    assert [text.split(":")[0] for text in summary.assumed] == ["category ids are raised by 1"]
    table = {c["id"]: c["name"] for c in json.loads((tmp_path / "after" / "categories.json").read_text())}
    old = {c["id"]: c["name"] for c in json.loads((tmp_path / "before" / "categories.json").read_text())}
    assert min(table) == 1
    for name, record in before.items():
        for key in (schema.OBJECT_LABEL, schema.SEGMENT_CATEGORY):
            names = [old[int(label)] for label in np.asarray(record[key])]
            assert [table[int(label)] for label in np.asarray(after[name][key])] == names
        assert np.asarray(record[schema.SEGMENT_MASK]) == np.asarray(after[name][schema.SEGMENT_MASK])


# Annotations that belong to something else, or contradict each other: nothing is written.
REFUSED: dict[str, tuple[Callable[[JSONS], Any], str]] = {
    "no objects": (lambda j: j["instances"].update(annotations=[]), "0 objects for the .* thing segments"),
    "twice as large": (
        lambda j: [i.update(width=2 * i["width"], height=2 * i["height"]) for i in j["instances"]["images"]],
        "image of another size",
    ),
    "other file names": (
        lambda j: [i.update(file_name=f"other-{i['id']}.jpg") for i in j["instances"]["images"]],
        "image of another file name",
    ),
    "other category names": (
        lambda j: [c.update(name=f"other {c['name']}") for c in j["instances"]["categories"]],
        "category of another name",
    ),
    "rotated ids and nothing to compare": (
        _rotate_unnamed,
        "objects in a sample",
    ),
    "swapped": (
        lambda j: j.update(panoptic=j["instances"], instances=j["panoptic"]),
        "panoptic_val2017.json is an instances JSON",
    ),
    "panoptic for instances": (
        lambda j: j.update(instances=j["panoptic"]),
        "is a panoptic JSON, not an instances JSON",
    ),
    "captions for instances": (
        lambda j: j["instances"].update(annotations=[{"image_id": 200000, "id": 1, "caption": "a dog"}]),
        "is a captions JSON",
    ),
    "detections for instances": (
        lambda j: j.update(instances=[{"image_id": 200000, "category_id": 2, "bbox": [0, 0, 1, 1], "score": 1}]),
        "is a file of detections",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_belongs_to_something_else_is_refused(dataset: Path, tmp_path: Path, case: str) -> None:
    change, message = REFUSED[case]
    jsons = _load(dataset)
    change(jsons)
    _write(dataset, jsons)
    with pytest.raises(DataError, match=message):
        _records(dataset, tmp_path / "records")
    assert not list(tmp_path.glob("records/*.tfrecord"))


def test_a_picture_without_annotation_is_kept_as_unlabelled(dataset: Path, tmp_path: Path) -> None:
    jsons = _load(dataset)
    dropped = jsons["panoptic"]["annotations"].pop(0)
    image = next(i for i in jsons["panoptic"]["images"] if i["id"] == dropped["image_id"])
    image.update(width=-1, height=-1)
    _write(dataset, jsons)
    (dataset / "panoptic_val2017" / dropped["file_name"]).unlink()
    with pytest.raises(DataError, match="has no entry in annotations") as caught:
        _records(dataset, tmp_path / "records")
    assert "--on-bad-data void" in (caught.value.hint or "")
    summary, records = _records(dataset, tmp_path / "records", "void")
    assert (summary.pictures, summary.skipped_pictures) == (6, {})
    assert "pictures without annotation: they are kept as unlabelled" in summary.assumed
    record = records[image["file_name"]]
    with Image.open(dataset / "val2017" / image["file_name"]) as opened:
        assert (record[schema.IMAGE_WIDTH][0], record[schema.IMAGE_HEIGHT][0]) == opened.size
    assert len(record[schema.SEGMENT_ID]) == 0


def test_the_hint_is_not_the_option_that_was_given(dataset: Path, tmp_path: Path) -> None:
    jsons = _load(dataset)
    for image in jsons["panoptic"]["images"]:
        image["file_name"] = "../x.jpg"
    _write(dataset, jsons)
    with pytest.raises(DataError, match=r"No picture of val is usable: .*malformed images \(6\)") as caught:
        _records(dataset, tmp_path / "records", "skip")
    assert "skip" not in str(caught.value)


def test_a_near_name_of_a_missing_file_is_told(dataset: Path, tmp_path: Path) -> None:
    path = dataset / "val2017" / "000000200003.jpg"
    path.rename(path.with_suffix(".jpeg"))
    with pytest.raises(DataError, match=r"000000200003\.jpg does not exist, only 000000200003\.jpeg"):
        _records(dataset, tmp_path / "records")


def test_names_in_another_unicode_form_are_found(dataset: Path, tmp_path: Path) -> None:
    composed, apart = (unicodedata.normalize(form, "Überführung.jpg") for form in ("NFC", "NFD"))
    (dataset / "val2017" / "000000200003.jpg").rename(dataset / "val2017" / apart)
    jsons = _load(dataset)
    for kind in jsons:
        next(i for i in jsons[kind]["images"] if i["id"] == 200003)["file_name"] = composed
    _write(dataset, jsons)
    summary, records = _records(dataset, tmp_path / "records")
    assert list(summary.notes.values()) == [1]
    assert composed in records


def test_splits_that_contradict_each_other_are_refused(dataset: Path, tmp_path: Path) -> None:
    jsons = _load(dataset)
    jsons["panoptic"]["categories"][0]["isthing"] ^= 1
    _write(dataset, jsons)
    plans = [ConversionPlan(files, tmp_path / "records", 1) for files in find_splits(dataset)]
    name = jsons["panoptic"]["categories"][0]["name"]
    with pytest.raises(DataError, match=f"categories of val contradict those of train: {name} is a thing and stuff"):
        convert_all(plans, 1)
    assert not (tmp_path / "records").exists()
    convert(plans[0], read_dataset(plans[0].files), 1)
    with pytest.raises(DataError, match="contradict those of the records of train"):
        convert(plans[1], read_dataset(plans[1].files), 1)


def test_cocos_layout_needs_no_instances_json(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _path(dataset, "instances").unlink()
    summary, _ = _records(dataset, tmp_path / "records")
    assert "objects are made from the thing segments" in capsys.readouterr().err.replace("\n", " ")
    assert summary.objects > 0
    assert coco_files(dataset, "val").object_annotations is not None
