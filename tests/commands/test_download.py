"""`panoptic download` without a server: dry runs, usage errors and requirements."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from panoptic_cli.commands.main import run

from panoptic_cli.errors import TransferError
from panoptic_cli.transfer.aria2c import require_aria2c


def test_a_dry_run_prints_sizes_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "coco"
    assert run(["download", "--data-dir", str(data), "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "19.3 GB" in out
    assert "21.3 GB" in out
    assert not data.exists()


def test_the_json_of_a_dry_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["download", "--data-dir", str(tmp_path / "coco"), "--split", "val", "--dry-run", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["dry_run"] is True
    assert plan["bytes_to_fetch"] == 815_585_330 + 252_907_541 + 860_725_834  # 1.9 GB, as --help says
    assert plan["archives"][0]["url"] == "http://images.cocodataset.org/zips/val2017.zip"
    assert {name for archive in plan["archives"] for name in archive["outputs"]} == {
        *("val2017/", "annotations/instances_val2017.json"),
        *("panoptic_val2017/", "annotations/panoptic_val2017.json"),
    }


def test_a_complete_folder_from_elsewhere_is_not_downloaded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "val2017"
    folder.mkdir()
    for number in range(5000):
        (folder / f"{number}.jpg").touch()
    assert run(["download", "--data-dir", str(tmp_path), "--split", "val", "--dry-run", "--json"]) == 0
    states = {a["file"]: a["state"] for a in json.loads(capsys.readouterr().out)["archives"]}
    assert states["val2017.zip"] == "complete"
    (folder / "0.jpg").unlink()
    assert run(["download", "--data-dir", str(tmp_path), "--split", "val", "--dry-run", "--json"]) == 0
    states = {a["file"]: a["state"] for a in json.loads(capsys.readouterr().out)["archives"]}
    assert states["val2017.zip"] == "to fetch"


def test_without_aria2c_the_error_contains_the_install_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = tmp_path / "m.json"
    archive = {"path": "a.zip", "size": 10, "outputs": [{"members": "a/", "to": "a/"}]}
    manifest.write_text(json.dumps({"name": "x", "base_url": "http://127.0.0.1:9/", "archives": [archive]}))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sys.platform", "darwin")
    data = tmp_path / "data"
    assert run(["download", "--data-dir", str(data), "--manifest", str(manifest)]) == 1
    assert "brew install aria2" in " ".join(capsys.readouterr().err.split())
    assert not data.exists()


def test_a_full_disk_is_reported_before_the_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("panoptic_cli.transfer.sizes.free_space", lambda path: 1_000_000_000)
    monkeypatch.setattr("panoptic_cli.transfer.download.require_aria2c", lambda: "aria2c")
    assert run(["download", "--data-dir", str(tmp_path / "coco"), "--split", "val"]) == 1
    error = " ".join(capsys.readouterr().err.split())
    assert "only 1.0 GB is free" in error
    assert not (tmp_path / "coco" / "zips").exists()


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--split", "test"], "--split"),
        (["--connections", "17"], "--connections"),
        (["--base-url", "file:///tmp"], "--base-url"),
    ],
)
def test_usage_errors(arguments: list[str], word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["download", *arguments]) == 2
    assert word in " ".join(capsys.readouterr().err.split())


def test_the_help_contains_the_sizes_of_the_splits(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERMINAL_WIDTH", "200")
    assert run(["download", "--help"]) == 0
    assert "val is 1.9 GB, both are 21.3 GB" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("platform", "programs", "command"),
    [
        ("darwin", [], "brew install aria2"),
        ("win32", [], "winget install aria2.aria2"),
        ("linux", ["apt-get"], "sudo apt-get install -y aria2"),
        ("linux", ["dnf"], "sudo dnf install -y aria2"),
        ("linux", ["pacman"], "sudo pacman -S aria2"),
        ("linux", ["apk"], "sudo apk add aria2"),
        ("linux", [], "Install the package aria2"),
    ],
)
def test_the_install_command_fits_the_platform(
    platform: str, programs: list[str], command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in programs:
        (tmp_path / name).touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr("sys.platform", platform)
        patch.setattr("shutil.which", lambda name: str(tmp_path / name) if (tmp_path / name).exists() else None)
        with pytest.raises(TransferError) as caught:
            require_aria2c()
    assert command in (caught.value.hint or "")


def test_help_of_download_and_upload_imports_nothing_slow() -> None:
    program = (
        "import sys; from panoptic_cli.transfer import aria2c, sizes, upload, upload_plan; "
        "import panoptic_cli.commands.download, panoptic_cli.commands.upload; "
        "slow = {'pydantic', 'aria2p', 'requests', 'tensorflow', 'google.auth', 'google.cloud.storage'}; "
        "print(sorted(slow & set(sys.modules)))"
    )
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert process.stdout.strip() == "[]"
