"""Whatever is in the files: records, or one clear error; never a traceback, never part of a shard."""

from __future__ import annotations

import copy
import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from json_changes import json_changes

from panoptic_cli import console
from panoptic_cli.coco import lists
from panoptic_cli.coco.dataset import PanopticDataset, Picture, read_dataset
from panoptic_cli.coco.layout import coco_files
from panoptic_cli.errors import PanopticError
from panoptic_cli.inspection.record_files import inspect_records
from panoptic_cli.records.conversion import convert
from panoptic_cli.records.plans import ConversionPlan, OnBadData

_SLOW = settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
_NAMES = ("panoptic", "instances")


@cache
def _original(folder: Path) -> dict[str, Any]:
    return {name: json.loads((folder / "annotations" / f"{name}_val2017.json").read_text()) for name in _NAMES}


def _changes(folder: Path) -> st.SearchStrategy[dict[str, Any]]:
    return json_changes(_original(folder))


def _write(folder: Path, values: dict[str, Any]) -> None:
    for name, value in values.items():
        (folder / "annotations" / f"{name}_val2017.json").write_text(json.dumps(value))


def _convert_or_refuse(folder: Path, on_bad_data: OnBadData) -> None:
    target = folder / "records"
    console.configure(verbosity=-1)
    plan = ConversionPlan(coco_files(folder, "val"), target, 2, on_bad_data)
    try:
        dataset = read_dataset(plan.files, keep_unannotated=on_bad_data == "void")
        summary = convert(plan, dataset, 1)
    except PanopticError:  # anything else fails the test
        whole = False
    else:
        whole = True
        assert not summary.skipped_pictures or on_bad_data == "skip"
        assert summary.pictures <= len(dataset.pictures)
    if target.exists():
        assert not list(target.glob(".*"))
        shards = sorted(target.glob("*.tfrecord"))
        assert len(shards) == 2 or not whole
        # Bit errors inside a JPEG show only when it is decoded, which conversion does not do; and a box that is
        # possible, but not that of its polygon, is taken over as it stands: inspect tells of it.
        tolerated = {"picture in several records", "unreadable picture", "object box differs from its mask"}
        assert not shards or inspect_records(shards, 1).findings.by_kind.keys() <= tolerated


@pytest.mark.slow
@_SLOW
@given(data=st.data(), on_bad_data=st.sampled_from(["fail", "skip", "void"]))
def test_any_json(generated: Path, data: st.DataObject, on_bad_data: OnBadData) -> None:
    values = data.draw(_changes(generated))
    with tempfile.TemporaryDirectory() as root:
        folder = Path(shutil.copytree(generated, Path(root) / "data", ignore=shutil.ignore_patterns("*train*")))
        _write(folder, values)
        _convert_or_refuse(folder, on_bad_data)


@pytest.mark.slow
@_SLOW
@given(
    which=st.sampled_from(["val2017/*.jpg", "panoptic_val2017/*.png", "annotations/*val2017.json"]),
    number=st.integers(0, 5),
    length=st.floats(0, 1),
    flips=st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), max_size=3),
    on_bad_data=st.sampled_from(["fail", "skip", "void"]),
)
def test_any_damage(
    generated: Path, which: str, number: int, length: float, flips: list[tuple[float, int]], on_bad_data: OnBadData
) -> None:
    with tempfile.TemporaryDirectory() as root:
        folder = Path(shutil.copytree(generated, Path(root) / "data", ignore=shutil.ignore_patterns("*train*")))
        paths = sorted(folder.glob(which))
        path = paths[number % len(paths)]
        content = bytearray(path.read_bytes())
        if not flips:
            content = content[: int(length * len(content))]
        for place, value in flips:
            content[int(place * len(content))] = value
        path.write_bytes(content)
        _convert_or_refuse(folder, on_bad_data)


def _read(values: dict[str, Any]) -> PanopticDataset | None:
    """Reads annotations without pictures; None if they are refused."""
    with tempfile.TemporaryDirectory() as root:
        (Path(root) / "annotations").mkdir()
        _write(Path(root), values)
        try:
            dataset = read_dataset(coco_files(Path(root), "val"))
            return replace(dataset, pictures=list(dataset.pictures))  # type: ignore[arg-type]
        except PanopticError:
            return None


def _literally(values: dict[str, Any], identifier: int) -> list[Any]:
    """Returns what the JSONs say of a picture, without checks and assumptions; floats and integers are equal."""
    panoptic, instances = values["panoptic"], values["instances"]

    def entries(value: Any, key: str) -> list[dict[str, Any]]:
        return [entry for entry in value if isinstance(entry, dict) and entry.get(key) == identifier]

    (image,) = entries(panoptic["images"], "id")
    (annotation,) = entries(panoptic["annotations"], "image_id")
    keys = ("id", "category_id", "iscrowd", "area", "bbox")
    objects = entries(instances["annotations"], "image_id")
    return [
        *(image["file_name"], image["width"], image["height"], annotation["file_name"]),
        [[s.get(key) for key in keys] for s in annotation["segments_info"]],
        [[o.get(key) for key in (*keys[1:], "segmentation")] for o in objects],
    ]


def _as_read(picture: Picture) -> list[Any]:
    def bbox(box: tuple[float, ...] | None) -> list[float] | None:
        return None if box is None else list(box)

    return [
        *(picture.file_name, picture.width, picture.height, picture.mask_name),
        [[s.id, s.category_id, s.is_crowd, s.area, bbox(s.bbox)] for s in picture.segments],
        [[o.category_id, o.is_crowd, o.area, bbox(o.bbox), o.segmentation] for o in picture.objects or ()],
    ]


def _plain(value: Any) -> str:
    """Returns a value as text, the same for 1 and true, 0, false and nothing, and for areas before rounding."""
    if isinstance(value, list):
        return f"[{', '.join(map(_plain, value))}]"
    if isinstance(value, bool | int | float | None):
        return "0" if value is None or value != value or abs(value) < 0.5 else str(round(float(value), 1))
    return json.dumps(value, sort_keys=True)


@pytest.mark.slow
@_SLOW
@given(data=st.data())
def test_nothing_is_assumed_without_a_note(generated: Path, data: st.DataObject) -> None:
    """A picture that is accepted without notes is what its JSONs say, word for word."""
    values = data.draw(_changes(generated))
    dataset = _read(values)
    if dataset is None or dataset.notes:
        return
    for picture in dataset.pictures:
        assert _plain(_as_read(picture)) == _plain(_literally(values, picture.id))


def _padded(number: int) -> str:
    return f" +{number:09d}.0"


_SPELLINGS: list[Callable[[int], Any]] = [str, float, _padded]
_SPELLED = ("id", "image_id", "category_id", "iscrowd", "width", "height", "area")


@pytest.mark.slow
@_SLOW
@given(data=st.data())
def test_other_spellings_of_numbers_mean_the_same_and_are_noted(generated: Path, data: st.DataObject) -> None:
    values = copy.deepcopy(_original(generated))
    entries = [*values["panoptic"]["images"], *values["instances"]["annotations"], *values["panoptic"]["categories"]]
    entries += [s for a in values["panoptic"]["annotations"] for s in (a, *a["segments_info"])]
    before = _read(values)
    assert before is not None
    changed = 0
    for entry in data.draw(st.lists(st.sampled_from(entries), min_size=1, max_size=4)):
        key = data.draw(st.sampled_from(_SPELLED))
        if type(entry.get(key)) is int:
            entry[key] = data.draw(st.sampled_from(_SPELLINGS))(entry[key])
            is_used = key != "id" or "segmentation" not in entry  # ids of objects are not
            changed += is_used and (key != "area" or isinstance(entry[key], str))
    after = _read(values)
    assert after is not None
    assert list(map(_as_read, after.pictures)) == list(map(_as_read, before.pictures))
    assert [note.count for note in after.notes if "numbers written" in note.kind] == [changed] * bool(changed)


@pytest.mark.slow
@_SLOW
@given(data=st.data())
def test_the_fast_and_the_slow_check_agree(generated: Path, data: st.DataObject) -> None:
    values = data.draw(_changes(generated))

    def outcome(dataset: PanopticDataset) -> Any:
        problems = sorted((p.kind, p.message) for p in dataset.problems)
        return problems, [repr(picture) for picture in dataset.pictures], dataset.ignored_objects, dataset.notes

    with tempfile.TemporaryDirectory() as root, pytest.MonkeyPatch.context() as patch:
        (Path(root) / "annotations").mkdir()
        _write(Path(root), values)
        found = []
        for thorough in (False, True):
            if thorough:
                refuse = type("Refusing", (), {"decode": lambda self, text: []})()
                for name in ("DECODE_IMAGES", "DECODE_ANNOTATIONS", "DECODE_OBJECTS"):
                    patch.setattr(lists.json_entries, name, refuse)
            try:
                found.append(outcome(read_dataset(coco_files(Path(root), "val"))))
            except PanopticError as error:
                found.append(str(error))
        assert found[0] == found[1]
