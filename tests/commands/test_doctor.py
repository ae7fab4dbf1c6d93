"""`panoptic doctor`: the report is complete and contains no secrets."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from panoptic_cli.commands import doctor
from panoptic_cli.commands.main import run

from panoptic_cli import diagnostics


def _report(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert run(["doctor", "--no-devices", "--json", *arguments]) == 0
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    return report


def test_every_variable_of_every_option_is_listed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PANOPTIC_MODEL_DIR", "runs/here")
    monkeypatch.setenv("PANOPTIC_DATA_DIR", "data/there")
    monkeypatch.setenv("PANOPTIC_MODELDIR", "a typing error")
    monkeypatch.delenv("PANOPTIC_DEBUG", raising=False)
    report = _report(capsys)
    declared = set()
    for source in Path(doctor.__file__).parent.glob("*.py"):  # found in another way: in the sources
        declared |= {part.split('"')[0] for part in source.read_text().split('envvar="')[1:]}
    assert set(report["environment"]) == declared | {"PANOPTIC_DEBUG"}
    assert report["environment"]["PANOPTIC_MODEL_DIR"] == "runs/here"
    assert report["environment"]["PANOPTIC_DEBUG"] is None
    assert report["unknown_variables"] == ["PANOPTIC_MODELDIR"]
    assert report["disk"]["data_dir"] == "data/there"


def test_versions_are_the_installed_ones(capsys: pytest.CaptureFixture[str]) -> None:
    packages = _report(capsys)["packages"]
    assert packages["tensorflow"] == metadata.version("tensorflow")
    assert packages["google-cloud-storage"] == metadata.version("google-cloud-storage")
    assert "pytest" not in packages


def test_credentials_are_never_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    key = tmp_path / "my-key.json"
    key.write_text('{"private_key": "s3cret"}')
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(key))
    monkeypatch.setenv("https_proxy", "http://user:s3cret@proxy")
    assert run(["-v", "doctor", "--no-devices"]) == 0
    printed = "".join(capsys.readouterr())
    assert "set, file found" in printed
    assert "https_proxy" in printed
    assert "s3cret" not in printed
    assert "my-key" not in printed
    key.unlink()
    assert _report(capsys)["credentials"]["GOOGLE_APPLICATION_CREDENTIALS"] == "set, FILE MISSING"


def test_the_text_is_ascii_and_says_how_to_install_aria2c(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sys.platform", "darwin")
    assert run(["doctor", "--no-devices"]) == 0
    out = capsys.readouterr().out
    assert out.isascii()
    assert "brew install aria2" in out
    assert "PANOPTIC_DATA_DIR" in out


def test_a_hanging_or_broken_tensorflow_is_reported_on_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(diagnostics, "_LIST_DEVICES", "import time; time.sleep(60)")
    assert run(["doctor", "--timeout", "1"]) == 0
    assert "did not answer within 1 s" in capsys.readouterr().out
    monkeypatch.setattr(diagnostics, "_LIST_DEVICES", "raise ImportError('no libcudart')")
    assert run(["doctor"]) == 0
    assert "does not start (exit code 1): ImportError: no libcudart" in capsys.readouterr().out


@pytest.mark.slow
def test_devices_are_those_of_tensorflow(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", "--json"]) == 0
    devices = json.loads(capsys.readouterr().out)["devices"]
    assert devices["problem"] is None
    assert any("CPU" in name for name in devices["listed"])
