from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from panoptic_cli.coco.dataset import PanopticDataset, read_dataset, require_sound
from panoptic_cli.coco.layout import find_splits
from panoptic_cli.errors import DataError


def _edit(path: Path, change: Callable[[Any], None]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def _edited(root: Path, which: str, change: Callable[[Any], None]) -> PanopticDataset:
    _edit(root / "annotations" / f"{which}_val2017.json", change)
    return read_dataset(find_splits(root, ["val"])[0])


def test_pictures_are_paired_by_id(dataset: Path) -> None:
    before = list(read_dataset(find_splits(dataset, ["val"])[0]).pictures)

    def shuffle(value: Any) -> None:
        value["images"] = value["images"][3:] + value["images"][:3]
        value["annotations"].sort(key=lambda a: a["file_name"])

    assert list(_edited(dataset, "panoptic", shuffle).pictures) == before
    for picture in before:
        assert Path(picture.file_name).stem == Path(picture.mask_name).stem


PANOPTIC_CHANGES: dict[str, tuple[Callable[[Any], None], str]] = {
    "image id twice": (lambda v: v["images"].append(dict(v["images"][0])), "duplicate image id"),
    "image without annotation": (lambda v: v["annotations"].pop(), "image without annotation"),
    "annotation without image": (
        lambda v: v["annotations"].append({"image_id": 1, "file_name": "x.png", "segments_info": []}),
        "annotation without image",
    ),
    "annotated twice": (lambda v: v["annotations"].append(v["annotations"][0]), "duplicate annotation"),
    "width is a word": (lambda v: v["images"][0].update(width="wide"), "malformed images"),
    "width is huge": (lambda v: v["images"][0].update(width=10**9), "malformed images"),
    "name leaves the folder": (lambda v: v["images"][0].update(file_name="../../x.jpg"), "malformed images"),
    "no file name": (lambda v: v["annotations"][0].pop("file_name"), "malformed annotations"),
    "image is a number": (lambda v: v["images"].append(7), "malformed images"),
    "segments are an object": (
        lambda v: v["annotations"][0].update(segments_info={}),
        "malformed annotations",
    ),
    "segment is null": (lambda v: v["annotations"][0]["segments_info"].append(None), "malformed segment"),
    "segment id 0": (lambda v: v["annotations"][0]["segments_info"][0].update(id=0), "malformed segment"),
    "segment id of 4 bytes": (
        lambda v: v["annotations"][0]["segments_info"][0].update(id=1 << 24),
        "malformed segment",
    ),
    "segment without category": (
        lambda v: v["annotations"][0]["segments_info"][0].pop("category_id"),
        "malformed segment",
    ),
    "area not finite": (
        lambda v: v["annotations"][0]["segments_info"][0].update(area=float("nan")),
        "malformed segment",
    ),
    "area enormous": (
        lambda v: v["annotations"][0]["segments_info"][0].update(area=10**400),
        "malformed segment",
    ),
    "segment twice": (
        lambda v: v["annotations"][0]["segments_info"].append(dict(v["annotations"][0]["segments_info"][0])),
        "duplicate segment id",
    ),
    "unknown category": (
        lambda v: v["annotations"][0]["segments_info"][0].update(category_id=99),
        "unknown category",
    ),
}


@pytest.mark.parametrize("name", PANOPTIC_CHANGES)
def test_panoptic_problems_are_named(dataset: Path, name: str) -> None:
    change, kind = PANOPTIC_CHANGES[name]
    found = _edited(dataset, "panoptic", change)
    assert {problem.kind for problem in found.problems} == {kind}
    with pytest.raises(DataError, match=r"panoptic_val2017\.json"):
        require_sound(found)
    bad = {problem.picture for problem in found.problems}
    assert not bad & {picture.id for picture in found.pictures}
    if None not in bad:
        require_sound(found, skip_bad_pictures=True)


OBJECT_CHANGES: dict[str, tuple[Callable[[Any], None], str]] = {
    "unknown": (lambda v: v["annotations"][0].update(category_id=99), "object of an unknown category"),
    "crowd is 2": (lambda v: v["annotations"][0].update(iscrowd=2), "malformed object"),
}


@pytest.mark.parametrize("name", OBJECT_CHANGES)
def test_object_problems_are_named(dataset: Path, name: str) -> None:
    change, kind = OBJECT_CHANGES[name]
    assert {problem.kind for problem in _edited(dataset, "instances", change).problems} == {kind}


def test_objects_of_other_pictures_are_only_counted(dataset: Path) -> None:
    found = _edited(dataset, "instances", lambda v: v["annotations"][0].update(image_id=12345))
    assert found.ignored_objects == {"picture not in the panoptic annotations": 1}
    require_sound(found)


def test_all_problems_are_reported_at_once(dataset: Path) -> None:
    def change(value: Any) -> None:
        for annotation in value["annotations"]:
            annotation["segments_info"][0]["category_id"] = 99

    with pytest.raises(DataError, match=r"unknown category \(6\): annotations\[0\].*annotations\[2\].*; and 3 more"):
        require_sound(_edited(dataset, "panoptic", change))


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("[]", "not a JSON object"),
        ('{"images": []}', "no list of annotations, categories"),
        ("{", "not valid JSON"),
    ],
)
def test_files_of_another_form_are_refused(dataset: Path, text: str, match: str) -> None:
    (dataset / "annotations" / "panoptic_val2017.json").write_text(text)
    with pytest.raises(DataError, match=match):
        read_dataset(find_splits(dataset, ["val"])[0])


# msgspec skips unknown fields; Python's decoder, which checks doubtful entries, does not.
@pytest.mark.parametrize(
    "hidden", [b'"coco_url": "\xff", ', b'"x": ' + b"1" * 5000 + b", "], ids=["not UTF-8", "5000 digits"]
)
@pytest.mark.parametrize(
    ("before", "after"),
    [(b'"file_name": "000000200000.jpg"', b'"file_name": "../x.jpg"'), (b'"image_id": 200000,', b'"image_id": 777,')],
    ids=["name leaves the folder", "image without annotation"],
)
def test_entries_that_are_not_json_are_named(dataset: Path, hidden: bytes, before: bytes, after: bytes) -> None:
    path = dataset / "annotations" / "panoptic_val2017.json"
    text = path.read_bytes()
    assert before in text
    text = text.replace(b'{"id": 200000, ', b'{"id": 200000, ' + hidden, 1).replace(before, after, 1)
    path.write_bytes(text)
    place = text.index(b'{"id": 200000, ')
    with pytest.raises(DataError, match=rf"panoptic_val2017\.json is not valid JSON: .*in the entry at byte {place}\."):
        read_dataset(find_splits(dataset, ["val"])[0])


def test_a_file_that_changes_during_reading_is_named(dataset: Path) -> None:
    pictures = read_dataset(find_splits(dataset, ["val"])[0]).pictures
    for kind, before, after in (
        ("instances", b'"iscrowd": 0', b'"iscrowd": 7'),
        ("panoptic", b'"segments_info": ', b'"sEgments_info": '),
    ):
        path = dataset / "annotations" / f"{kind}_val2017.json"
        text = path.read_bytes()
        with path.open("r+b") as stream:  # in place, as some editors do, so that the open file changes
            stream.write(text.replace(before, after))
        with pytest.raises(DataError, match=rf"{kind}_val2017\.json changed while it was in use"):
            list(pictures)
        with path.open("r+b") as stream:
            stream.write(text)


def test_all_missing_files_are_named_with_the_command_that_downloads_them(dataset: Path) -> None:
    (dataset / "annotations" / "instances_val2017.json").unlink()
    (dataset / "val2017").rename(dataset / "elsewhere")
    with pytest.raises(DataError) as caught:
        find_splits(dataset, ["val"])
    assert "instances_val2017.json" in caught.value.message
    assert "folder of pictures" in caught.value.message
    assert f"panoptic download --data-dir {dataset} --split val" in (caught.value.hint or "")


def test_existing_splits_are_found(dataset: Path) -> None:
    assert [f.name for f in find_splits(dataset)] == ["train", "val"]
    for path in (*dataset.glob("*train2017"), *dataset.glob("annotations/*train2017.json")):
        path.rename(dataset / f"gone-{path.name}")
    assert [f.name for f in find_splits(dataset)] == ["val"]
    with pytest.raises(DataError, match="train2017"):
        find_splits(dataset, ["train"])
    with pytest.raises(DataError, match="does not exist"):
        find_splits(dataset / "nowhere")
