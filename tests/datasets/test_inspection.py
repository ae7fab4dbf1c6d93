from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from panoptic_cli.datasets import masks, samples
from panoptic_cli.datasets.coco import read_dataset
from panoptic_cli.datasets.conversion import ConversionPlan, convert, read_plan
from panoptic_cli.datasets.findings import EXAMPLES, Findings
from panoptic_cli.datasets.inspection import add_shared_pictures, inspect_split
from panoptic_cli.datasets.layout import find_splits
from panoptic_cli.datasets.record_inspection import find_records
from panoptic_cli.errors import DataError

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
        ids = masks.decode_panoptic_png(_mask(root).read_bytes())
        assert opened.size[0] > 0
    ys, xs = np.nonzero(ids == 0) if (ids == 0).any() else np.nonzero(ids)
    was_void = ids[ys[0], xs[0]] == 0
    ids[ys[0], xs[0]] = 5
    _mask(root).write_bytes(masks.encode_panoptic_png(ids))
    if not was_void:  # the segment that lost the pixel would be a second problem
        _first_segment(root, lambda s: s.update(area=s["area"] - 1))


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
        "error",
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
    "malformed object": (lambda r: _first_object(r, segmentation=["x"]), "malformed segmentation", "error"),
}


@pytest.mark.parametrize("case", CASES)
def test_each_problem_is_found_alone(dataset: Path, case: str) -> None:
    break_it, kind, severity = CASES[case]
    break_it(dataset)
    found = inspect_split(find_splits(dataset, ["val"])[0], workers=1).findings.ordered()
    assert [(f.kind, f.severity, f.count) for f in found] == [(kind, severity, 1)]
    assert str(ID) in found[0].examples[0]


def test_all_problems_are_counted_and_a_few_shown(dataset: Path) -> None:
    for path in (dataset / "val2017").iterdir():
        path.unlink()
    _mask(dataset).unlink()
    report = inspect_split(find_splits(dataset, ["val"])[0], workers=1)
    assert [(f.kind, f.count) for f in report.findings.ordered()] == [
        ("picture missing", 6),
        ("mask missing", 1),
    ]
    assert len(report.findings.ordered()[0].examples) == EXAMPLES
    assert report.findings.errors == 7


def test_workers_find_the_same(dataset: Path) -> None:
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


def test_pictures_in_two_splits_are_told(generated: Path) -> None:
    files = find_splits(generated, ["val"])[0]
    reports = [inspect_split(files, workers=1) for _ in range(2)]
    add_shared_pictures(reports)
    assert reports[0].findings.by_kind == {}
    assert reports[1].findings.by_kind["picture also in val"].count == 6


def test_findings_put_errors_first() -> None:
    findings = Findings()
    for _ in range(9):
        findings.add("often", "x", "warning")
    findings.add("once", "y")
    assert [f.kind for f in findings.ordered()] == ["once", "often"]
    assert findings.errors == 1


def test_samples_from_files_and_from_records_are_the_same(generated: Path, tmp_path: Path) -> None:
    plan = ConversionPlan(find_splits(generated, ["val"])[0], tmp_path, 1)
    dataset = read_plan(plan)
    convert(plan, dataset, 1)
    of_files = list(samples.dataset_samples(read_dataset(plan.files), 6))
    of_records = list(samples.record_samples(find_records(str(tmp_path / "val-*")), 100))
    assert len(of_files) == len(of_records) == 6
    for a, b in zip(of_files, of_records, strict=True):
        assert a.name == f"val-{b.name}"
        np.testing.assert_array_equal(a.image, b.image)
        np.testing.assert_array_equal(a.category_map, b.category_map)
        np.testing.assert_array_equal(a.instance_map, b.instance_map)
    assert [s.name for s in samples.dataset_samples(dataset, 2)] == ["val-200000", "val-200009"]


def test_a_pattern_without_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="neither a data set nor"):
        find_records(str(tmp_path / "val-*"))
