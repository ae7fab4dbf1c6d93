"""`panoptic doctor`: the report is complete and contains no secrets."""

from __future__ import annotations

import json
import os
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from panoptic_cli.commands import doctor
from panoptic_cli.commands.main import run

from panoptic_cli import diagnostics, gpus
from panoptic_cli.images.limits import MAX_PIXELS_VARIABLE


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
    declared = {MAX_PIXELS_VARIABLE}
    for source in Path(doctor.__file__).parent.glob("*.py"):  # found in another way: in the sources
        declared |= {part.split('"')[0] for part in source.read_text().split('envvar="')[1:]}
    assert set(report["environment"]) == declared | {"PANOPTIC_DEBUG", "PANOPTIC_CACHE"}
    assert report["environment"]["PANOPTIC_MODEL_DIR"] == "runs/here"
    assert report["environment"]["PANOPTIC_DEBUG"] is None
    assert report["unknown_variables"] == ["PANOPTIC_MODELDIR"]
    assert report["disk"]["data_dir"] == "data/there"


def test_the_caches_are_told_with_their_sizes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PANOPTIC_CACHE", str(tmp_path / "cache"))
    copy = tmp_path / "cache" / "panoptic_fpn_r50_1x"
    copy.mkdir(parents=True)
    (copy / "ckpt-1.index").write_bytes(bytes(3000))
    cache = _report(capsys)["cache"]
    assert (cache["folder"], cache["bytes"]) == (str(tmp_path / "cache"), 3000)
    assert cache["hugging_face_folder"].endswith("hub")
    assert run(["doctor", "--no-devices"]) == 0
    assert f"{tmp_path}/cache, 3.0 kB; " in capsys.readouterr().out


def test_versions_are_the_installed_ones(capsys: pytest.CaptureFixture[str]) -> None:
    packages = _report(capsys)["packages"]
    name = next(name for name in ("tensorflow", "tensorflow-tpu") if name in packages)
    assert packages[name] == metadata.version(name)
    assert packages["keras"] == metadata.version("keras")
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


def test_gpus_are_told_with_driver_cuda_and_missing_libraries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho NVIDIA L4, 550.54.15, 23034\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(gpus, "missing_libraries", lambda build: ["libcudnn.so.9"])
    answer = {"listed": ["CPU:0"], "build": {"version": "2.21.0", "cuda": "12.5.1", "cudnn": "9"}}
    monkeypatch.setattr(diagnostics, "_LIST_DEVICES", f"print('DEVICES' + {json.dumps(answer)!r})")
    assert run(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "NVIDIA L4, 24.2 GB, driver 550.54.15. TensorFlow cannot use them: TensorFlow 2.21.0 needs CUDA" in out
    assert "built for CUDA 12.5.1 and cuDNN 9; MISSING libcudnn.so.9" in out
    assert run(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["gpus"]["cards"] == [
        {"name": "NVIDIA L4", "driver": "550.54.15", "memory_bytes": 23034 * 2**20},
    ]
    assert report["gpus"]["missing_libraries"] == ["libcudnn.so.9"]
    answer["listed"].append("/physical_device:GPU:0 NVIDIA L4")  # type: ignore[attr-defined]
    monkeypatch.setattr(diagnostics, "_LIST_DEVICES", f"print('DEVICES' + {json.dumps(answer)!r})")
    assert run(["doctor", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["gpus"]["problem"] is None


@pytest.mark.slow
def test_devices_are_those_of_tensorflow(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", "--json"]) == 0
    devices = json.loads(capsys.readouterr().out)["devices"]
    assert devices["problem"] is None
    assert any("CPU" in name for name in devices["listed"])
