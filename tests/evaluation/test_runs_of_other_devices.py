"""A run is evaluated and predicted on the local devices, whatever it was trained on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from panoptic_cli.commands.main import run

TRAINED_ON = {
    "tpu": {"tpu": "node-of-the-training", "tpu_zone": "z"},
    "eight_gpus": {"num_gpus": 8},
    "workers": {"distribution_strategy": "multi_worker_mirrored"},
}


@pytest.fixture(params=TRAINED_ON)
def other_run(request: pytest.FixtureRequest, tiny_run: Path, tmp_path: Path) -> Path:
    """A copy of `tiny_run` that says that it was trained on other devices."""
    copy = tmp_path / "run"
    shutil.copytree(tiny_run, copy)
    content = yaml.safe_load((copy / "config.yaml").read_text())
    content["runtime"].update(TRAINED_ON[request.param])
    (copy / "config.yaml").write_text(yaml.safe_dump(content))
    return copy


def test_pictures_are_predicted(other_run: Path, shapes_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = str(sorted((shapes_dir / "val2017").iterdir())[0])
    output = other_run.parent / "out"
    assert run(["predict", picture, "--model-dir", str(other_run), "--output", str(output), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["overlays"]) == 1
    assert len(json.loads((output / "pred.json").read_text())["annotations"]) == 1


def test_a_worker_of_a_cluster_does_not_predict(
    tiny_run: Path, shapes_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TF_CONFIG", '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 0}}')
    assert run(["predict", str(shapes_dir / "val2017"), "--model-dir", str(tiny_run)]) == 2
    assert "TF_CONFIG" in capsys.readouterr().err
