"""`panoptic inspect` as a user calls it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from panoptic_cli.commands.inspection_report import problem_lines
from panoptic_cli.commands.main import run

from panoptic_cli.inspection.findings import REMEDIES, Findings

Capture = pytest.CaptureFixture[str]


def _json(capsys: Capture, *arguments: str, code: int = 0) -> Any:
    capsys.readouterr()
    assert run(["inspect", *arguments, "--workers", "1", "--json"]) == code
    return json.loads(capsys.readouterr().out)


def test_data_in_another_layout(mine: Path, dataset: Path, capsys: Capture) -> None:
    """The options are those of make-tfrecords; the folder of masks is derived from the JSON's name."""
    own = ["--panoptic-annotations", str(mine / "labels.json"), "--image-dir", str(mine / "pictures")]
    value = _json(capsys, *own)
    assert value["splits"]["labels"]["pictures"] == 6
    assert value["splits"]["labels"]["objects"] == value["splits"]["labels"]["things"]
    (mine / "pictures").rename(mine / "images")
    assert _json(capsys, *own[:2]) == value  # found by its name
    own[3] = str(mine / "images")
    (mine / "labels").rename(mine / "elsewhere")
    more = ["--panoptic-masks", str(mine / "elsewhere"), "--object-annotations"]
    more.append(str(dataset / "annotations" / "instances_val2017.json"))
    assert _json(capsys, *own, *more)["splits"]["labels"]["objects"] == value["splits"]["labels"]["objects"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--image-dir", "x"], 2, "--panoptic-annotations"),
        (["--panoptic-annotations", "a.json", "--image-dir", "b"], 1, "panoptic annotations a.json"),
        (["--draw", "2"], 2, "--output"),
        (["--augmented"], 2, "--draw"),
        (["--experiment", "x"], 2, "panoptic_fpn_coco"),
        (["--draw", "1", "--output", "file"], 2, "is a file"),
        (["data", "--draw", "1", "--output", "d", "--augmented"], 1, "panoptic make-tfrecords"),
        (["nowhere"], 1, "No data set or records match nowhere"),
        ([], 1, "panoptic download"),
    ],
)
def test_wrong_calls_are_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture, arguments: list[str], code: int, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("x")
    assert run(["inspect", *arguments]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err.replace("\n", " ")


def test_the_exit_code_is_0_with_warnings_only(dataset: Path, capsys: Capture) -> None:
    path = dataset / "annotations" / "panoptic_val2017.json"
    value = json.loads(path.read_text())
    value["categories"].append({"id": 99, "name": "unicorn", "isthing": 1})
    path.write_text(json.dumps(value))
    result = _json(capsys, str(dataset))
    assert (result["errors"], result["warnings"]) == (0, 1)
    assert run(["inspect", str(dataset), "--workers", "1"]) == 0
    assert "unicorn (id 99)" in capsys.readouterr().out


def test_the_report_names_problem_place_and_remedy(dataset: Path, capsys: Capture) -> None:
    for path in (dataset / "val2017").iterdir():
        path.unlink()
    assert run(["inspect", str(dataset), "--workers", "2"]) == 1
    out = capsys.readouterr().out
    assert "val: 6 errors, 0 warnings" in out
    assert "error: picture missing (6): add the file, or drop its entry" in out
    assert "000000200000.jpg (image 200000)" in out
    assert "--on-bad-data skip" in out


def test_the_line_of_a_problem_fits_80_columns() -> None:
    findings = Findings()
    for kind in REMEDIES:
        findings.add(kind, "x", "warning")
        findings.by_kind[kind].count = 999
    lines = [line for line in problem_lines("val", findings) if "(999)" in line]
    assert len(lines) == len(REMEDIES)
    assert max(map(len, lines)) <= 80


def test_few_lines_of_examples_are_shown() -> None:
    findings = Findings()
    for place in range(30):
        findings.add("short", f"{place:012d}.jpg")
        findings.add("long", f"{place:012d}.jpg is of a size that does not fit the annotations at all")
    lines = problem_lines("val", findings)
    assert len(lines) == 1 + 2 + 4 + 1
    assert lines[-1].endswith("and 27 more")


def test_samples_of_a_broken_data_set_and_of_records(dataset: Path, tmp_path: Path, capsys: Capture) -> None:
    (dataset / "val2017" / "000000200003.jpg").unlink()
    value = _json(capsys, str(dataset), "--draw", "3", "--output", str(tmp_path / "a"), code=1)
    assert {Path(path).stem.split("-")[0] for path in value["drawn"]} == {"train", "val"}
    assert sorted(value["drawn"]) == sorted(str(path) for path in (tmp_path / "a").iterdir())
    shutil.copytree(dataset, tmp_path / "other")
    assert run(["make-tfrecords", "--data-dir", str(dataset), "--split", "train", "--workers", "1"]) == 0
    value = _json(capsys, f"{dataset}/tfrecords/train-*", "--draw", "3", "--output", str(tmp_path / "b"))
    assert len(value["drawn"]) == len(list((tmp_path / "b").iterdir())) == 3


def test_a_data_set_without_problems(generated: Path, capsys: Capture) -> None:
    value = _json(capsys, str(generated))
    assert value["errors"] == 0
    assert value["splits"]["train"]["pictures"] == 12
    assert value["splits"]["val"]["problems"] == []
    assert run(["inspect", str(generated), "--workers", "1"]) == 0
    assert "no problems" in capsys.readouterr().out


def test_the_exit_code_is_1_with_errors(dataset: Path, capsys: Capture) -> None:
    (dataset / "val2017" / "000000200003.jpg").unlink()
    value = _json(capsys, str(dataset), code=1)
    assert [p["kind"] for p in value["splits"]["val"]["problems"]] == ["picture missing"]


def test_records_are_checked_and_counted(dataset: Path, capsys: Capture) -> None:
    assert run(["make-tfrecords", "--data-dir", str(dataset), "--split", "val", "--workers", "1", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    value = _json(capsys, str(dataset / "tfrecords" / "val-*"))
    assert (value["errors"], value["files"], value["records"]) == (0, 8, 6)
    assert value["objects"] == made["splits"][0]["objects"]
    path = dataset / "tfrecords" / "val-00000-of-00008.tfrecord"
    path.write_bytes(path.read_bytes()[:-3])
    assert _json(capsys, str(dataset / "tfrecords"), code=1)["errors"] == 1


@pytest.mark.slow
def test_augmented_samples(shapes_records: Path, tmp_path: Path, capsys: Capture) -> None:
    """A configuration that is given must fit the categories."""
    drawing = ["--draw", "2", "--augmented", "--output", str(tmp_path / "drawn")]
    value = _json(capsys, f"{shapes_records}/train-*", *drawing, "--set", "task.model.input_size=[128,128,3]", code=2)
    assert "do not fit the configured heads" in value["error"]["message"]
    value = _json(capsys, f"{shapes_records}/train-*", *drawing, "--experiment", "panoptic_fpn_shapes")
    assert len(value["drawn"]) == len(list((tmp_path / "drawn").iterdir())) == 2


def test_the_shell_may_expand_the_pattern(shapes_records: Path, capsys: Capture) -> None:
    """An unquoted tfrecords/* also has the manifests and categories.json, which are not records."""
    paths = sorted(str(path) for path in shapes_records.iterdir())
    value = _json(capsys, *paths)
    assert (value["files"], value["errors"]) == (4, 0)
    assert {**value, "data": ""} == {**_json(capsys, str(shapes_records)), "data": ""}


def test_one_data_set_at_a_time(dataset: Path, shapes_records: Path, capsys: Capture) -> None:
    value = _json(capsys, str(shapes_records), str(dataset), code=2)
    assert "is a data set, but several paths are given" in value["error"]["message"]


@pytest.mark.slow
def test_augmented_samples_in_a_folder_whose_name_looks_like_a_pattern(
    shapes_records: Path, tmp_path: Path, capsys: Capture
) -> None:
    """Without a configuration, classes are counted from the table: the default preset's are for COCO."""
    folder = Path(shutil.copytree(shapes_records, tmp_path / "a[1], b"))
    drawing = ["--draw", "1", "--augmented", "--output", str(tmp_path / "drawn")]
    for paths in ([str(folder)], [str(path) for path in folder.glob("train-*")]):
        value = _json(capsys, *paths, *drawing)
        assert [Path(path).name for path in value["drawn"]] == ["augmented-000.png"]


@pytest.mark.slow
def test_sigterm_leaves_no_temporary_files(dataset: Path, tmp_path: Path) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()
    command = [sys.executable, "-m", "panoptic_cli", "inspect", str(dataset), "--workers", "2"]
    process = subprocess.Popen(command, env={**os.environ, "TMPDIR": str(folder)}, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list(folder.glob("panoptic-inspect-*")) and time.monotonic() < deadline:
        time.sleep(0.001)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 130
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("what", ["data set", "records"])
def test_settings_that_do_not_fit_the_data_are_warnings(
    shapes_dir: Path, shapes_records: Path, capsys: Capture, what: str
) -> None:
    data = shapes_dir if what == "data set" else shapes_records
    preset = "--experiment", "panoptic_fpn_shapes"
    keys = "task.train_data.parser.max_num_instances=1", "task.model.detection_generator.max_num_detections=2"
    assert run(["inspect", str(data), *preset, *(word for key in keys for word in ("--set", key)), "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    for report in value["splits"].values() if what == "data set" else [value]:
        (problem,) = report["problems"]
        assert (problem["severity"], problem["kind"]) == ("warning", "configuration of panoptic_fpn_shapes")
        assert [example.split()[-1] for example in problem["examples"]] == [f"{key.split('=')[0]}." for key in keys]
    assert run(["inspect", str(data), *preset, "--json"]) == 0
    assert "configuration of" not in capsys.readouterr().out
