"""Whatever is broken in a data set or in records, inspect reports it and never ends with a traceback."""

from __future__ import annotations

import copy
import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from panoptic_cli.commands.main import run

from panoptic_cli.coco.dataset import read_dataset
from panoptic_cli.coco.layout import coco_files
from panoptic_cli.demo import shapes
from panoptic_cli.inspection.record_files import inspect_records
from panoptic_cli.records import schema
from panoptic_cli.records.conversion import convert
from panoptic_cli.records.files import find_record_files
from panoptic_cli.records.plans import ConversionPlan
from panoptic_cli.records.tfrecord import TFRecordWriter, read_records

Capture = pytest.CaptureFixture[str]
_FUZZ = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,  # the same cases in every run, so that a failure can be repeated
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)

# Values of wrong types and sizes that a JSON file may have anywhere.
_ODD: list[Any] = [
    None,
    True,
    -1,
    0,
    1 << 24,
    1 << 40,
    1 << 62,
    1 << 63,
    10**30,
    0.5,
    float("nan"),
    float("inf"),
    -1e308,
]
_ODD += ["", "x", "1", "../../etc/passwd", "a\0b", "\ud800", [], [[]], [1], {}, {"a": 1}, [None] * 4, [0, 0, 0, 0]]
_ODD += [[float("nan")] * 4, [1e300, 1, 1, 1], [[1, 2, 3]], {"size": [9, 9], "counts": "x"}, {"counts": [-1]}]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three pictures of shapes and their records in two shards."""
    folder = tmp_path_factory.mktemp("fuzz") / "shapes"
    shapes.generate(folder, train=1, val=3, seed=2)
    for path in [*folder.glob("*train2017"), *(folder / "annotations").glob("*train*")]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    files = coco_files(folder, "val")
    convert(ConversionPlan(files, folder / "records", 2), read_dataset(files), 1)
    return folder


def _inspect(capsys: Capture, *arguments: str) -> tuple[int, dict[str, Any]]:
    """Runs the command and returns exit code and result; anything but a report fails the test."""
    capsys.readouterr()
    code = run(["inspect", *arguments, "--workers", "1", "--json"])
    captured = capsys.readouterr()
    assert "bug in panoptic" not in captured.err, captured.err
    assert "Traceback" not in captured.err
    assert code in (0, 1)
    value = json.loads(captured.out)
    assert "error" not in value, value
    return code, value


def _problems(value: dict[str, Any]) -> dict[str, dict[str, Any]]:
    parts = value["splits"].values() if "splits" in value else [value]
    return {problem["kind"]: problem for part in parts for problem in part["problems"]}


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yields every place in a JSON value, as the keys that lead there."""
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        yield (*path, key)
        if isinstance(inner, dict | list):
            yield from _places(inner, (*path, key))


def _at(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        value = value[key]
    return value


@pytest.mark.slow
@_FUZZ
@given(data=st.data())
@pytest.mark.parametrize("name", ["panoptic", "instances"])
def test_odd_json(name: str, sound: Path, tmp_path: Path, capsys: Capture, data: st.DataObject) -> None:
    """Replaces, removes or duplicates one to four values anywhere in a JSON file."""
    root = tmp_path / "data"
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(sound, root)
    path = root / "annotations" / f"{name}_val2017.json"
    value = json.loads(path.read_text())
    for _ in range(data.draw(st.integers(1, 4))):
        places = list(_places(value))
        if not places:
            break
        place = data.draw(st.sampled_from(places))
        parent, key = _at(value, place[:-1]), place[-1]
        how = data.draw(st.sampled_from(["replace", "remove", "double"]))
        if how == "replace":
            parent[key] = copy.deepcopy(data.draw(st.sampled_from(_ODD)))
        elif how == "remove":
            del parent[key]
        elif isinstance(parent, list):
            parent.append(parent[key])
    path.write_text(json.dumps(value))
    _inspect(capsys, str(root))


@pytest.mark.slow
@_FUZZ
@given(seed=st.integers(0, 1 << 32), how=st.sampled_from(["cut", "flip", "empty", "noise"]))
def test_damaged_files(sound: Path, tmp_path: Path, capsys: Capture, seed: int, how: str) -> None:
    """Cuts, empties or replaces a picture, mask or JSON file, or flips its bits; cut files are always named."""
    root = tmp_path / "data"
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(sound, root)
    chance = random.Random(seed)
    paths = sorted([*root.glob("*val2017/*"), *root.glob("annotations/*_val2017.json")])
    path = chance.choice(paths)
    path.write_bytes(_damage(path.read_bytes(), how, chance))
    code, value = _inspect(capsys, str(root))
    if how != "flip":  # a flipped bit of a JPEG may only change a pixel
        assert code == 1
        assert any(path.name in example for p in _problems(value).values() for example in p["examples"])


def _damage(content: bytes, how: str, chance: random.Random) -> bytes:
    if how == "cut":
        return content[: chance.randrange(1, len(content) - 1)]
    if how == "flip":
        changed = bytearray(content)
        for _ in range(chance.randint(1, 8)):
            changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
        return bytes(changed)
    return b"" if how == "empty" else chance.randbytes(500)


@pytest.mark.slow
@_FUZZ
@given(seed=st.integers(0, 1 << 32), how=st.sampled_from(["cut", "flip", "empty", "noise"]))
def test_damaged_shards(sound: Path, tmp_path: Path, capsys: Capture, seed: int, how: str) -> None:
    """Every changed byte of a shard is found, the shard is named, and the other shard is still read."""
    chance = random.Random(seed)
    folder = tmp_path / "records"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(sound / "records", folder)
    path = folder / f"val-0000{chance.randrange(2)}-of-00002.tfrecord"
    other = len(list(read_records(next(p for p in folder.glob("*.tfrecord") if p != path))))
    path.write_bytes(_damage(path.read_bytes(), how, chance))
    code, value = _inspect(capsys, f"{folder}/val-*")
    assert code == 1
    problems = _problems(value)
    problems.pop("configuration of panoptic_fpn_coco", None)  # the shapes are small
    assert problems.keys() <= {"damaged record file", "shard differs from the manifest"}
    assert all(path.name in example for problem in problems.values() for example in problem["examples"])
    assert value["records"] >= other


_VALUES: list[schema.FeatureValue] = [b"", b"noise", 0, -1, 1 << 62, [b"a", b"b"], []]


@_FUZZ
@given(data=st.data())
def test_odd_features(sound: Path, tmp_path: Path, data: st.DataObject) -> None:
    """Removes features of a record or gives them odd values; every missing required feature is named."""
    import numpy as np

    values = [*_VALUES, np.array([np.nan], np.float32), np.array([1 << 62, -5]), np.zeros(3, np.float32)]
    record = next(read_records(Path(find_record_files(str(sound / "records"))[0])))
    features: dict[str, Any] = dict(schema.decode_example(record))
    changed = data.draw(st.sets(st.sampled_from(sorted(features)), min_size=1, max_size=3))
    removed = set()
    for key in sorted(changed):
        if data.draw(st.booleans()):
            del features[key]
            removed.add(key)
        else:
            features[key] = values[data.draw(st.integers(0, len(values) - 1))]
    path = tmp_path / "odd.tfrecord"
    with TFRecordWriter(path) as writer:
        writer.write(schema.encode_example(features))
    report = inspect_records([path], workers=1)
    required = removed & {schema.IMAGE_ENCODED, schema.IMAGE_HEIGHT, schema.IMAGE_WIDTH, schema.CATEGORY_MASK}
    examples = " ".join(example for f in report.findings.ordered() for example in f.examples)
    assert all(key in examples for key in required)


@_FUZZ
@given(content=st.binary(max_size=200))
def test_records_that_are_not_examples_are_errors(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "odd.tfrecord"
    with TFRecordWriter(path) as writer:
        writer.write(content)
    assert inspect_records([path], workers=1).findings.errors >= 1


def test_undamaged_data_have_no_errors(sound: Path, capsys: Capture) -> None:
    """The control: the data that the tests above break have no errors before."""
    assert _inspect(capsys, str(sound))[0] == 0
    assert _inspect(capsys, str(sound / "records"))[0] == 0
