"""The archive for COCO's panoptic server."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from panoptic_cli.results import submission
from panoptic_cli.results.submission import submission_stem, write_submission

STEM = "panoptic_test-dev2017_mine_results"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Predictions, of which PNGs are not made in the order of their names."""
    (tmp_path / "out" / "pred").mkdir(parents=True)
    (tmp_path / "out" / "pred.json").write_text('{"annotations": []}' * 50)
    for name in ("b.png", "a.png", "c.png"):
        (tmp_path / "out" / "pred" / name).write_bytes(name.encode() * 100)
    return tmp_path / "out"


def test_the_json_and_the_folder_are_at_the_top(folder: Path, tmp_path: Path) -> None:
    write_submission(folder, tmp_path / f"{STEM}.zip")
    with zipfile.ZipFile(tmp_path / f"{STEM}.zip") as packed:
        assert packed.testzip() is None
        assert packed.namelist() == [f"{STEM}.json", *(f"{STEM}/{name}.png" for name in "abc")]
        assert packed.read(f"{STEM}.json") == (folder / "pred.json").read_bytes()
        assert packed.read(f"{STEM}/b.png") == b"b.png" * 100
        assert [e.compress_type for e in packed.infolist()] == [zipfile.ZIP_DEFLATED, *[zipfile.ZIP_STORED] * 3]
        packed.extractall(tmp_path / "unpacked")
    # Another program reads it, too.
    subprocess.run([sys.executable, "-m", "zipfile", "-t", tmp_path / f"{STEM}.zip"], check=True, capture_output=True)
    assert os.access(tmp_path / "unpacked" / STEM / "a.png", os.R_OK)


def test_the_same_predictions_give_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    write_submission(folder, tmp_path / "one" / f"{STEM}.zip")
    for path in [*folder.rglob("*")]:
        os.utime(path, (1, 10**9))
    (folder / "pred.json").chmod(0o600)
    write_submission(folder, tmp_path / "two" / f"{STEM}.zip")
    one, two = ((tmp_path / name / f"{STEM}.zip").read_bytes() for name in ("one", "two"))
    assert one == two


def test_an_interruption_leaves_the_earlier_archive(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = tmp_path / f"{STEM}.zip"
    archive.write_bytes(b"earlier")

    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(submission.shutil, "copyfileobj", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_submission(folder, archive)
    assert archive.read_bytes() == b"earlier"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", archive.name]


@pytest.mark.parametrize(
    ("set_name", "method", "expected"),
    [
        ("test-dev2017", "panoptic-fpn", "panoptic_test-dev2017_panoptic-fpn_results"),
        ("my set", "../über_1.5", "panoptic_my-set_ber-1.5_results"),
        ("日本", "", "panoptic_unnamed_unnamed_results"),
    ],
)
def test_names(set_name: str, method: str, expected: str) -> None:
    assert submission_stem(set_name, method) == expected
