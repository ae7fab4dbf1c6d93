from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image

from panoptic_cli.coco.layout import find_splits
from panoptic_cli.images import panoptic_png
from panoptic_cli.inspection.dataset import SplitReport, add_shared_pictures, inspect_split
from panoptic_cli.inspection.findings import EXAMPLES, Findings

ID = 200003


def _picture(root: Path) -> Path:
    return root / "val2017" / f"{ID:012d}.jpg"


def _mask(root: Path) -> Path:
    return root / "panoptic_val2017" / f"{ID:012d}.png"


def _first_segment(root: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = root / "annotations" / "panoptic_val2017.json"
    value = json.loads(path.read_text())
    change(next(a for a in value["annotations"] if a["image_id"] == ID)["segments_info"][0])
    path.write_text(json.dumps(value))


def _first_object(root: Path, **fields: Any) -> None:
    path = root / "annotations" / "instances_val2017.json"
    value = json.loads(path.read_text())
    next(a for a in value["annotations"] if a["image_id"] == ID).update(fields)
    path.write_text(json.dumps(value))


def _stray_pixel(root: Path) -> None:
    with Image.open(_mask(root)) as opened:
        ids = panoptic_png.read_segment_ids(_mask(root))
        assert opened.size[0] > 0
    ys, xs = np.nonzero(ids == 0) if (ids == 0).any() else np.nonzero(ids)
    was_void = ids[ys[0], xs[0]] == 0
    ids[ys[0], xs[0]] = 5
    _mask(root).write_bytes(panoptic_png.encode_ids(ids))
    if not was_void:  # otherwise the segment that lost the pixel is a second problem
        _first_segment(root, lambda s: s.update(area=s["area"] - 1))


def _save_mask(root: Path, mode: str) -> None:
    with Image.open(_mask(root)) as opened:
        opened.convert(mode).save(_mask(root), "PNG")


def _converted(root: Path, image_format: str) -> None:
    with Image.open(_picture(root)) as opened:
        opened.convert("RGB").save(_picture(root), image_format)


def _turn(root: Path, orientation: int) -> None:
    """Adds an EXIF orientation; 6 also turns the stored pixels, as a camera does."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    with Image.open(_picture(root)) as opened:
        pixels = opened.transpose(Image.Transpose.ROTATE_90) if orientation == 6 else opened
        pixels.save(_picture(root), "JPEG", exif=exif)


def _panoptic(root: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = root / "annotations" / "panoptic_val2017.json"
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def _category(root: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    _panoptic(root, lambda v: change(next(c for c in v["categories"] if c["id"] == 2)))


CASES: dict[str, tuple[Callable[[Path], Any], str, str]] = {
    "no picture": (lambda r: _picture(r).unlink(), "picture missing", "error"),
    "cut picture": (
        lambda r: _picture(r).write_bytes(_picture(r).read_bytes()[:900]),
        "picture unreadable",
        "error",
    ),
    "picture of another size": (
        lambda r: Image.new("RGB", (31, 17)).save(_picture(r)),
        "picture size differs from the JSON",
        "error",
    ),
    "no mask": (lambda r: _mask(r).unlink(), "mask missing", "error"),
    "mask is text": (lambda r: _mask(r).write_text("text"), "mask unreadable", "error"),
    "stray pixel": (_stray_pixel, "mask id not in the JSON", "error"),
    "wrong area": (
        lambda r: _first_segment(r, lambda s: s.update(area=s["area"] + 1)),
        "area differs from the mask",
        "warning",
    ),
    "wrong box": (
        lambda r: _first_segment(r, lambda s: s.update(bbox=[0, 0, 2, 2])),
        "box differs from the mask",
        "warning",
    ),
    "crowd of stuff": (
        lambda r: _first_segment(r, lambda s: s.update(iscrowd=1)),
        "crowd of stuff",
        "warning",
    ),
    "unknown category": (
        lambda r: _first_segment(r, lambda s: s.update(category_id=77)),
        "unknown category",
        "error",
    ),
    "empty object": (
        lambda r: _first_object(r, segmentation=[[1, 1, 1, 1, 1, 1]]),
        "empty object mask",
        "warning",
    ),
    "object outside": (
        lambda r: _first_object(r, bbox=[-3, 1, 9, 9]),
        "object box leaves the picture",
        "warning",
    ),
    "object of another place": (
        lambda r: _first_object(r, bbox=[0, 0, 20, 9]),
        "object box differs from its mask",
        "warning",
    ),
    "object far outside": (
        lambda r: _first_object(r, bbox=[5000, 1, 9, 9]),
        "object box outside the picture",
        "warning",
    ),
    "flat object": (lambda r: _first_object(r, bbox=[1, 1, 0, 9]), "object box without area", "warning"),
    "object of another area": (
        lambda r: _first_object(r, area=60000),
        "object area differs from its mask",
        "warning",
    ),
    "object of unknown": (lambda r: _first_object(r, category_id=6), "object of an unknown category", "error"),
    "grey mask": (lambda r: _save_mask(r, "L"), "mask id not in the JSON", "error"),
    "cut mask": (
        lambda r: _mask(r).write_bytes(_mask(r).read_bytes()[:-40]),
        "mask unreadable",
        "error",
    ),
    "mask is a JPEG": (lambda r: Image.new("RGB", (9, 9)).save(_mask(r), "JPEG"), "mask unreadable", "error"),
    "picture is a GIF": (
        lambda r: _converted(r, "GIF"),
        "picture neither JPEG nor PNG",
        "warning",
    ),
    "turned picture": (lambda r: _turn(r, 3), "EXIF orientation, both ways fit", "warning"),
    "picture lying on its side": (lambda r: _turn(r, 6), "EXIF orientation, picture turned", "warning"),
    "no isthing": (lambda r: _category(r, lambda c: c.pop("isthing")), "isthing missing", "error"),
    "color is a number": (lambda r: _category(r, lambda c: c.update(color=5)), "malformed category", "error"),
    "malformed object": (lambda r: _first_object(r, segmentation=["x"]), "malformed segmentation", "error"),
}


def _val(root: Path, workers: int = 1) -> SplitReport:
    return inspect_split(find_splits(root, ["val"])[0], workers)


@pytest.mark.parametrize("case", CASES)
def test_each_problem_is_found_and_nothing_else(dataset: Path, case: str) -> None:
    break_it, kind, severity = CASES[case]
    break_it(dataset)
    found = _val(dataset).findings.ordered()
    assert [(f.kind, f.severity, f.count) for f in found] == [(kind, severity, 1)]
    assert (str(ID) in found[0].examples[0]) or ("id 2," in found[0].examples[0])


def test_all_problems_are_counted_and_a_few_are_kept_as_examples(dataset: Path) -> None:
    for path in (dataset / "val2017").iterdir():
        path.unlink()
    _mask(dataset).unlink()
    report = _val(dataset)
    assert [(f.kind, f.count) for f in report.findings.ordered()] == [
        ("picture missing", 6),
        ("mask missing", 1),
    ]
    assert len(report.findings.ordered()[0].examples) == min(6, EXAMPLES)
    assert report.findings.errors == 7


def test_the_result_does_not_depend_on_the_number_of_workers(dataset: Path) -> None:
    CASES["wrong area"][0](dataset)
    CASES["no picture"][0](dataset)
    files = find_splits(dataset, ["val"])[0]
    one, two = inspect_split(files, workers=1), inspect_split(files, workers=2)
    assert one.findings.to_list() == two.findings.to_list()
    assert one.pixels == two.pixels


def test_pixel_shares_add_up(generated: Path) -> None:
    report = inspect_split(find_splits(generated, ["train"])[0], workers=1)
    shares = report.shares()
    assert sum(share for *_, share in shares) == pytest.approx(1)
    assert [share for *_, share in shares] == sorted((share for *_, share in shares), reverse=True)
    assert sum(segments for _, _, segments, _ in shares) == report.counts["segments"]
    assert report.counts["segments"] == report.counts["things"] + report.counts["stuff"]


def test_pictures_in_two_splits_are_reported(generated: Path) -> None:
    files = find_splits(generated, ["val"])[0]
    reports = [inspect_split(files, workers=1) for _ in range(2)]
    add_shared_pictures(reports)
    assert reports[0].findings.by_kind == {}
    assert reports[1].findings.by_kind["picture also in val"].count == 6


def test_a_picture_with_another_name_is_recognized_by_its_content(dataset: Path) -> None:
    """As the same file, and as one with an additional comment segment: the pixels count."""
    name = "000000100003.jpg"
    twin = (dataset / "train2017" / name).read_bytes()
    comment = b"\xff\xfe\x00\x06note"
    for content in (twin, twin[:2] + comment + twin[2:]):
        _picture(dataset).write_bytes(content)
        reports = [inspect_split(files, workers=1) for files in find_splits(dataset)]
        add_shared_pictures(reports)
        shared = reports[1].findings.by_kind["picture also in train"]
        assert shared.examples == [f"{ID:012d}.jpg is {name} there"]


def test_all_problems_of_one_picture_are_found_at_once(dataset: Path) -> None:
    """A problem in the JSON must not hide problems in the pixels, in other entries or in the categories."""
    _category(dataset, lambda c: c.pop("isthing"))
    _first_segment(dataset, lambda s: s.update(category_id=77))
    _first_object(dataset, iscrowd="seven")
    _picture(dataset).write_bytes(_picture(dataset).read_bytes()[:900])
    _stray_pixel(dataset)
    kinds = {f.kind for f in _val(dataset).findings.ordered()}
    expected = {"isthing missing", "unknown category", "malformed object", "picture unreadable"}
    assert kinds == {*expected, "mask id not in the JSON"}


def test_an_unreadable_instances_file_does_not_hide_the_rest(dataset: Path) -> None:
    (dataset / "annotations" / "instances_val2017.json").write_text("{")
    _mask(dataset).unlink()
    assert {f.kind for f in _val(dataset).findings.ordered()} == {"annotation file unreadable", "mask missing"}


def test_an_unreadable_panoptic_file_is_a_finding(dataset: Path) -> None:
    (dataset / "annotations" / "panoptic_val2017.json").write_text('{"images": []}')
    report = _val(dataset)
    assert [f.kind for f in report.findings.ordered()] == ["annotation file unreadable"]
    assert report.to_dict()["pictures"] == 0


def test_an_entry_that_is_not_json_does_not_hide_the_rest(dataset: Path) -> None:
    path = dataset / "annotations" / "panoptic_val2017.json"
    text = path.read_bytes().replace(b'{"id": 200000, ', b'{"id": 200000, "coco_url": "\xff", ', 1)
    path.write_bytes(text.replace(b'"000000200003.jpg"', b'"../x.jpg"', 1))  # another picture is broken too
    report = inspect_split(find_splits(dataset, ["val"])[0], workers=1, samples=6)
    assert [picture.id for picture in report.samples] == [200006, 200009, 200012, 200015]
    assert {f.kind: f.count for f in report.findings.ordered()} == {
        "annotation file unreadable": 1,
        "malformed images": 1,
    }
    assert "in the entry at byte" in report.findings.by_kind["annotation file unreadable"].examples[0]
    assert report.counts["pictures"] == 5


def test_repeated_entries_are_reported(dataset: Path) -> None:
    def repeat(value: dict[str, Any]) -> None:
        value["images"][1]["file_name"] = value["images"][0]["file_name"]
        value["images"][1].update(width=value["images"][0]["width"], height=value["images"][0]["height"])
        value["images"].append(value["images"][3])
        value["annotations"].append(value["annotations"][4])
        infos = next(a for a in value["annotations"] if len(a["segments_info"]) > 1)["segments_info"]
        infos.append(infos[0])

    _panoptic(dataset, repeat)
    kinds = _val(dataset).findings.by_kind
    for kind in (
        "picture used under several ids",
        "duplicate image id",
        "duplicate annotation",
        "duplicate segment id",
    ):
        assert kinds[kind].count >= 1


def test_categories_without_segments_are_a_warning(dataset: Path) -> None:
    _panoptic(dataset, lambda v: v["categories"].append({"id": 70000, "name": "unicorn", "isthing": 1}))
    found = {f.kind: (f.severity, f.examples) for f in _val(dataset).findings.ordered()}
    assert found["category without any segment"] == ("warning", ["unicorn (id 70000)"])
    assert found["category id too large"][0] == "error"


def test_statistics_equal_those_of_the_annotations(generated: Path) -> None:
    report = _val(generated)
    value = json.loads((generated / "annotations" / "panoptic_val2017.json").read_text())
    widths = sorted(image["width"] for image in value["images"])
    assert report.to_dict()["width"] == {"min": widths[0], "median": widths[2], "max": widths[-1]}
    area = sum(image["width"] * image["height"] for image in value["images"])
    segments = [s for a in value["annotations"] for s in a["segments_info"]]
    assert report.pixels.total() == area
    assert report.void_share == pytest.approx(1 - sum(s["area"] for s in segments) / area)
    assert report.crowd_share == pytest.approx(sum(s["area"] for s in segments if s["iscrowd"]) / area)
    for category in report.to_dict()["categories"]:
        of_it = [s for s in segments if s["category_id"] == category["id"]]
        assert (category["segments"], category["pixels"]) == (len(of_it), sum(s["area"] for s in of_it))


@pytest.mark.shared
def test_real_coco_has_no_errors(coco100: Path) -> None:
    reports = [inspect_split(files, workers=1) for files in find_splits(coco100)]
    add_shared_pictures(reports)
    for report in reports:
        assert [f.kind for f in report.findings.ordered()] == ["category without any segment"]


def test_findings_put_errors_first() -> None:
    findings = Findings()
    for _ in range(9):
        findings.add("often", "x", "warning")
    findings.add("once", "y")
    assert [f.kind for f in findings.ordered()] == ["once", "often"]
    assert findings.errors == 1
