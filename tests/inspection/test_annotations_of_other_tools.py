"""What inspect says of annotations that are not as COCO's, and of files that do not belong together."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from panoptic_cli.coco.layout import coco_files, find_splits
from panoptic_cli.inspection.dataset import SplitReport, add_conflicting_categories, inspect_split

Change = Callable[[dict[str, Any], dict[str, Any]], Any]


def _inspect(data: Path, change: Change) -> SplitReport:
    paths = [data / "annotations" / f"{kind}_val2017.json" for kind in ("panoptic", "instances")]
    panoptic, instances = (json.loads(path.read_text()) for path in paths)
    change(panoptic, instances)
    for path, value in zip(paths, (panoptic, instances), strict=True):
        path.write_text(json.dumps(value))
    return inspect_split(coco_files(data, "val"), workers=1)


def _from_zero(panoptic: dict[str, Any], instances: dict[str, Any]) -> None:
    new = {category["id"]: place for place, category in enumerate(panoptic["categories"])}
    segments = [s for a in panoptic["annotations"] for s in a["segments_info"]]
    for entry in (*segments, *instances["annotations"]):
        entry["category_id"] = new[entry["category_id"]]
    for category in (*panoptic["categories"], *instances["categories"]):
        category["id"] = new[category["id"]]


def _text_ids(panoptic: dict[str, Any], instances: dict[str, Any]) -> None:
    for value in (panoptic, instances):
        for image in value["images"]:
            image["id"] = f"a{image['id']}"
        for annotation in value["annotations"]:
            annotation["image_id"] = f"a{annotation['image_id']}"


def _all_stuff(panoptic: dict[str, Any], instances: dict[str, Any]) -> None:
    for category in panoptic["categories"]:
        category["isthing"] = 0


def _same_names(panoptic: dict[str, Any], instances: dict[str, Any]) -> None:
    for category in (*panoptic["categories"], *instances["categories"]):
        category["name"] = "thing" if category.get("isthing", 1) else "stuff"


WARNED: dict[str, tuple[Change, list[str]]] = {
    "ids from 0": (_from_zero, ["category ids are raised by 1"]),
    "nothing is a thing": (
        _all_stuff,
        ["objects of stuff categories", "categories, and none is a thing", "stuff category in several segments"],
    ),
    "names twice": (
        _same_names,
        ["categories with the name of another one"],
    ),
    "areas of objects": (
        lambda p, i: [o.update(area=1) for o in i["annotations"]],
        ["object areas of at most 1"],
    ),
    "few objects": (lambda p, i: i.update(annotations=i["annotations"][:3]), ["thing segments without an object"]),
    "sizes missing": (lambda p, i: [image.pop("width") for image in p["images"]], ["images without width and height"]),
}


@pytest.mark.parametrize("case", WARNED)
def test_what_is_assumed_is_a_warning(dataset: Path, case: str) -> None:
    change, kinds = WARNED[case]
    found = _inspect(dataset, change).findings
    assert {*kinds} <= found.by_kind.keys()
    assert found.errors == 0
    assert all(finding.remedy for finding in found.ordered())


def test_pictures_are_numbered_also_if_they_are_broken(dataset: Path) -> None:
    def change(panoptic: dict[str, Any], instances: dict[str, Any]) -> None:
        _text_ids(panoptic, instances)
        panoptic["annotations"][0]["segments_info"][0]["category_id"] = 99

    report = _inspect(dataset, change)
    errors = [finding for finding in report.findings.ordered() if finding.severity == "error"]
    assert [finding.kind for finding in errors] == ["unknown category"]
    assert "'a200015'" in errors[0].examples[0]
    assert report.counts["pictures"] == 6


def test_objects_of_other_pictures_are_an_error(dataset: Path) -> None:
    def rotate(panoptic: dict[str, Any], instances: dict[str, Any]) -> None:
        del instances["images"]
        for annotation in instances["annotations"]:
            annotation["image_id"] = 200000 + (annotation["image_id"] - 200000 + 3) % 18

    found = _inspect(dataset, rotate).findings.by_kind["object on no segment of its category"]
    assert found.severity == "error"


def test_a_file_of_another_kind_is_named(dataset: Path) -> None:
    found = _inspect(dataset, lambda panoptic, instances: panoptic.update(instances)).findings.ordered()
    assert [finding.kind for finding in found] == ["annotation file of another kind"]
    assert found[0].examples[0].endswith("panoptic_val2017.json is an instances JSON, not a panoptic JSON")


def test_splits_that_contradict_each_other_are_an_error(dataset: Path) -> None:
    val = _inspect(dataset, _all_stuff)
    train = inspect_split(find_splits(dataset, ["train"])[0], workers=1)
    add_conflicting_categories([train, val])
    things = [category.name for category in train.table.things]
    found = val.findings.by_kind["category differs between splits"]
    assert (found.severity, found.count) == ("error", len(things))
    assert train.findings.errors == 0
