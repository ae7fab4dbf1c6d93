"""The commands that prepare data need no TensorFlow; the others name the extra to install.

Run by make test-without-tensorflow, in an environment without any of the extras.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from cloud_emulator import BUCKET, emulator
from panoptic_cli.commands.main import run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("tensorflow") is not None,
        reason="TensorFlow is installed; make test-without-tensorflow runs this in an environment without it",
    ),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small generated data set and its records."""
    from panoptic_cli.demo import shapes

    folder = tmp_path_factory.mktemp("shapes")
    shapes.generate(folder, train=4, val=4)
    assert run(["make-tfrecords", "--data-dir", str(folder), "--train-shards", "1", "--val-shards", "1"]) == 0
    return folder


def test_pictures_and_records_are_inspected(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", str(data), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)
    drawn = data / "samples"
    assert run(["inspect", str(data / "tfrecords" / "val-*"), "--draw", "1", "--output", str(drawn)]) == 0
    assert list(drawn.iterdir())


def test_panoptic_data_are_made(data: Path) -> None:
    instances = data / "annotations" / "instances_val2017.json"
    assert run(["make-panoptic", "--object-annotations", str(instances), "--output", str(data / "made.json")]) == 0
    assert len(list((data / "made").glob("*.png"))) == 4


def test_a_download_is_planned(tmp_path: Path) -> None:
    assert run(["download", "--data-dir", str(tmp_path), "--dry-run"]) == 0


def test_records_are_uploaded(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with emulator() as url:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", url)
        assert run(["upload", str(data / "tfrecords"), f"gs://{BUCKET}/shapes"]) == 0


def test_a_result_file_is_scored(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth = data / "annotations" / "panoptic_val2017.json"
    options = ["--panoptic-annotations", str(truth), "--predictions-dir", str(data / "panoptic_val2017")]
    masks = ["--panoptic-masks", str(data / "panoptic_val2017")]
    assert run(["evaluate", "--predictions", str(truth), *options, *masks, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["panoptic"]["All"]["pq"] == 1.0


def test_doctor_says_that_it_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "tensorflow" in out
    assert "pip install 'panoptic-cli[" in out


@pytest.mark.parametrize(
    "command",
    [
        ["demo", "--output", "{new}"],
        ["train", "--experiment", "panoptic_fpn_shapes", "--data-dir", "{data}", "--model-dir", "{new}"],
        ["inspect", "{data}/tfrecords/train-*", "--draw", "1", "--augmented", "--output", "{new}"],
        ["predict", "{data}/val2017", "--saved-model", "{data}", "--output", "{new}"],
        ["evaluate", "--checkpoint", "{data}/ckpt-1", "--experiment", "panoptic_fpn_shapes", "--data-dir", "{data}"],
        ["export", "--checkpoint", "{data}/ckpt-1", "--experiment", "panoptic_fpn_shapes", "--output", "{new}"],
    ],
    ids=lambda command: command[0],
)
def test_the_other_commands_name_the_extra(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    (data / "ckpt-1.index").touch()
    new = tmp_path / "new"
    words = [word.format(data=data, new=new) for word in command]
    if command[0] == "export":
        words += ["--categories", str(data / "tfrecords" / "categories.json")]
    assert run(words) == 2
    err = capsys.readouterr().err.strip()
    assert err.splitlines()[-1].startswith("error: TensorFlow is not installed. Run: pip install 'panoptic-cli[")
    assert "Traceback" not in err
    assert not new.exists()
