"""The inputs and outputs of `panoptic predict`; what it predicts is tested in test_model_commands and tests/export."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from panoptic_cli.commands.main import run
from PIL import Image

from panoptic_cli.images.pictures import read_list

NAMES = ("a b.png", "ä-日本.png", "one/same.png", "two/same.png")


@pytest.fixture
def album(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with pictures of awkward names, and one that is none."""
    for place, name in enumerate(NAMES):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        colors = np.random.default_rng(place).integers(0, 255, (40 + place, 60, 3), np.uint8)
        Image.fromarray(colors).save(tmp_path / name)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG no more")
    (tmp_path / "exported").mkdir()  # in the place of a SavedModel, for dry runs
    monkeypatch.chdir(tmp_path)
    for name in ("MODEL_DIR", "OUTPUT", "CATEGORIES"):
        monkeypatch.delenv(f"PANOPTIC_{name}", raising=False)
    return tmp_path


def standard_input(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


def found(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    """The pictures that a dry run names."""
    assert run(["predict", *words, "--saved-model", "exported", "--dry-run", "--json"]) == 0
    return list(json.loads(capsys.readouterr().out)["pictures"])


def test_lists(album: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    (album / "list.txt").write_text("\ufeffone\r\n\na b.png\r\n*日本.png\ngone.png\n", encoding="utf-8")
    listed = ["one/same.png", "a b.png", "ä-日本.png", "gone.png"]
    assert found(capsys, "--list", "list.txt") == listed
    assert found(capsys, "two", "--list", "list.txt", "a b.png") == [
        "two/same.png",
        "a b.png",
        *listed[:1],
        *listed[2:],
    ]
    standard_input(monkeypatch, "a b.png\nä-日本.png\n".encode())
    assert found(capsys, "-") == ["a b.png", "ä-日本.png"]
    assert found(capsys, "*.png", "one") == ["a b.png", "broken.png", "ä-日本.png", "one/same.png"]


@pytest.mark.parametrize(
    ("content", "reason"), [(b"", "is empty"), (b"\n \n", "is empty"), (b"\x89PNG\0", "is not text")]
)
def test_lists_that_are_none(
    album: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], content: bytes, reason: str
) -> None:
    standard_input(monkeypatch, content)
    assert run(["predict", "-", "--saved-model", "exported", "--dry-run"]) == 1
    assert f"Standard input {reason}" in capsys.readouterr().err
    (album / "list.txt").write_bytes(content)
    assert run(["predict", "--list", "list.txt", "--saved-model", "exported", "--dry-run"]) == 1
    assert f"The list list.txt {reason}" in capsys.readouterr().err


def test_a_list_that_is_not_there(album: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["predict", "--list", "gone.txt", "--saved-model", "exported"]) == 1
    assert "The list gone.txt cannot be read: No such file" in capsys.readouterr().err


def test_a_name_that_is_no_utf_8_is_kept(album: Path) -> None:
    (album / "list.txt").write_bytes(b"caf\xe9.png\n")
    assert [Path(line).name.encode(errors="surrogateescape") for line in read_list("list.txt")] == [b"caf\xe9.png"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "There are no pictures to predict"),
        (["."], ""),
        ([".", "--contact-sheet", "sheet.gif"], "sheet.gif cannot be a contact sheet"),
        ([".", "--gpus", "0"], "--saved-model has its own weights"),
    ],
)
def test_usage(album: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str) -> None:
    assert run(["predict", *words, "--saved-model", "exported", "--dry-run"]) == (2 if message else 0)
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_everything_but_the_broken_is_written(tiny_run: Path, album: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (album / "list.txt").write_text("broken.png\ngone.png\n")
    words = [
        "--list",
        "list.txt",
        "--model-dir",
        str(tiny_run),
        "--batch-size",
        "3",
        "--contact-sheet",
        "out/sheet.png",
    ]
    assert run(["predict", *NAMES, *words, "--output", "out", "--json"]) == 1
    printed = capsys.readouterr()
    result = json.loads(printed.out)
    assert result["failed"].keys() == {"broken.png", "gone.png"}
    assert "2 of 6 pictures cannot be read" in printed.err
    images = json.loads(Path("out/pred.json").read_text())["images"]
    assert [(image["file_name"], image["height"]) for image in images] == [(n, 40 + i) for i, n in enumerate(NAMES)]
    assert len(set(result["overlays"])) == 4
    for path, name in zip(result["overlays"], NAMES, strict=True):
        assert Path(path).stem.startswith(Path(name).stem)
        assert Image.open(path).size == Image.open(name).size
    assert result["contact_sheet"] == "out/sheet.png"
    assert Image.open("out/sheet.png").size == (2 * (60 + 6) + 6, 2 * (43 + 6) + 6)  # the largest picture, and gaps
    # A batch gives what single pictures give.
    one_by_one = ["--model-dir", str(tiny_run), "--output", "single", "--json"]
    assert run(["predict", *NAMES, *one_by_one]) == 0
    for path in result["overlays"]:
        name = Path(path).name
        ours, theirs = (np.asarray(Image.open(Path(folder) / "pred" / name)) for folder in ("out", "single"))
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.slow
def test_alpha_0_gives_the_pictures_back(tiny_run: Path, album: Path) -> None:
    assert run(["predict", NAMES[0], "--model-dir", str(tiny_run), "--output", "out", "--alpha", "0"]) == 0
    np.testing.assert_array_equal(np.asarray(Image.open("out/overlay/a b.png")), np.asarray(Image.open(NAMES[0])))


@pytest.mark.slow
def test_the_exif_orientation_is_applied_and_told(
    tiny_run: Path, album: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(NAMES[0]) as stored:
        stored.save("turned.png", exif=exif)
        pixels = np.asarray(stored)
    words = ["predict", "turned.png", "--model-dir", str(tiny_run), "--output", "out", "--alpha", "0"]
    assert run(words) == 0
    assert "1 picture turned as the EXIF orientation says (--exif ignore" in capsys.readouterr().out
    np.testing.assert_array_equal(np.asarray(Image.open("out/overlay/turned.png")), np.rot90(pixels, -1))
    assert run([*words, "--exif", "ignore"]) == 0
    assert "EXIF" not in capsys.readouterr().out
    np.testing.assert_array_equal(np.asarray(Image.open("out/overlay/turned.png")), pixels)


def test_a_folder_that_is_no_saved_model(album: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["predict", "one", "--saved-model", "two"]) == 1
    assert "two is not a SavedModel of panoptic export" in capsys.readouterr().err
    assert not (album / "predictions").exists()
