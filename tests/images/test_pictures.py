from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from panoptic_cli.errors import DataError
from panoptic_cli.images.pictures import find_pictures, read_picture

Colors = np.ndarray


@pytest.fixture
def colors() -> Colors:
    """uint8 [24, 40, 3]: smooth, so that JPEG changes little; without symmetry, so that turns are visible."""
    y, x = np.mgrid[0:24, 0:40]
    return np.stack([40 + 4 * x, 200 - 6 * y, 60 + 2 * x + 2 * y], axis=-1).astype(np.uint8)


def assert_close(found: np.ndarray, expected: np.ndarray, tolerance: int) -> None:
    assert found.dtype == np.uint8
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected.astype(int)).max() <= tolerance


JPEG_ERROR = 12  # of 255, at quality 95: colour is stored at half the resolution


def test_colour_pictures(colors: Colors, tmp_path: Path) -> None:
    Image.fromarray(colors).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_picture(tmp_path / "a.png"), colors)
    Image.fromarray(colors).save(tmp_path / "a.jpg", quality=95)
    assert_close(read_picture(tmp_path / "a.jpg"), colors, JPEG_ERROR)
    for name in ("a.bmp", "a.tif"):
        Image.fromarray(colors).save(tmp_path / name)
        np.testing.assert_array_equal(read_picture(tmp_path / name), colors)


def test_greyscale_pictures(colors: Colors, tmp_path: Path) -> None:
    grey = colors[..., 0]
    Image.fromarray(grey).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_picture(tmp_path / "grey.png"), np.repeat(grey[..., None], 3, axis=-1))
    Image.fromarray(grey).save(tmp_path / "grey.jpg", quality=95)
    assert_close(read_picture(tmp_path / "grey.jpg"), np.repeat(grey[..., None], 3, axis=-1), JPEG_ERROR)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "1"])
def test_png_modes(colors: Colors, tmp_path: Path, mode: str) -> None:
    picture = Image.fromarray(colors)
    if mode == "RGBA":
        picture.putalpha(7)  # nearly transparent, but the colours count
        expected = colors
    elif mode == "LA":
        picture = Image.fromarray(colors[..., 0])
        picture.putalpha(7)
        expected = np.repeat(colors[..., :1], 3, axis=-1)
    else:
        picture = picture.convert(mode)
        expected = np.asarray(picture.convert("RGB"))
    picture.save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as saved:
        assert saved.mode == mode
    np.testing.assert_array_equal(read_picture(tmp_path / "a.png"), expected)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_twelve_and_sixteen_bits_are_scaled(colors: Colors, tmp_path: Path, suffix: str) -> None:
    for factor in (16, 256):
        deep = colors[..., 0].astype(np.uint16) * factor + factor - 1
        Image.fromarray(deep).save(tmp_path / f"deep.{suffix}")
        with Image.open(tmp_path / f"deep.{suffix}") as saved:
            assert saved.mode == "I;16"
        notes: Counter[str] = Counter()
        found = read_picture(tmp_path / f"deep.{suffix}", notes=notes)
        np.testing.assert_array_equal(found, np.repeat(colors[..., :1], 3, axis=-1))
        assert list(notes.values()) == [1]


def test_cmyk_jpegs(colors: Colors, tmp_path: Path) -> None:
    Image.fromarray(colors).convert("CMYK").save(tmp_path / "print.jpg", quality=95)
    with Image.open(tmp_path / "print.jpg") as saved:
        assert saved.mode == "CMYK"
    assert_close(read_picture(tmp_path / "print.jpg"), colors, JPEG_ERROR)


# How to turn the stored pixels for each EXIF orientation (TIFF 6.0, section 8).
TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: np.swapaxes(a, 0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(np.swapaxes(a, 0, 1), 2),
    8: np.rot90,
    9: lambda a: a,  # no such orientation
}


@pytest.mark.parametrize("orientation", TURNS)
def test_exif_orientation(colors: Colors, tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(colors).save(tmp_path / "a.jpg", quality=95, exif=exif)
    notes: Counter[str] = Counter()
    assert_close(read_picture(tmp_path / "a.jpg", notes=notes), TURNS[orientation](colors), JPEG_ERROR)
    assert notes.total() == (2 <= orientation <= 8)
    assert_close(read_picture(tmp_path / "a.jpg", "ignore", notes), colors, JPEG_ERROR)
    assert notes.total() == (2 <= orientation <= 8)


def test_pictures_with_damaged_exif_are_read(colors: Colors, tmp_path: Path) -> None:
    Image.fromarray(colors).save(tmp_path / "a.jpg", quality=95, exif=b"Exif\0\0" + b"MM\0*\xff\xff\xff\xff" * 3)
    assert_close(read_picture(tmp_path / "a.jpg"), colors, JPEG_ERROR)


def test_pictures_of_one_pixel(tmp_path: Path) -> None:
    for name in ("a.png", "a.jpg"):
        Image.new("RGB", (1, 1), (10, 20, 30)).save(tmp_path / name)
        assert read_picture(tmp_path / name).shape == (1, 1, 3)


def test_broken_pictures_are_errors_of_one_line(colors: Colors, tmp_path: Path) -> None:
    for name in ("whole.jpg", "whole.png", "whole.tif"):
        Image.fromarray(colors).save(tmp_path / name)
        content = (tmp_path / name).read_bytes()
        (tmp_path / name.replace("whole", "cut")).write_bytes(content[: len(content) // 2])
    (tmp_path / "text.png").write_text("not a picture")
    (tmp_path / "empty.jpg").write_bytes(b"")
    reasons = {"text.png": "its format is not known", "empty.jpg": "it is empty", "gone.jpg": "No such file"}
    for name in ("cut.jpg", "cut.png", "cut.tif", *reasons):
        with pytest.raises(DataError, match=reasons.get(name)) as caught:
            read_picture(tmp_path / name)
        message = caught.value.message
        assert str(tmp_path / name) in message
        assert message.count("\n") == 0
        for noise in ("{{", "BytesIO", "[Op:", ":."):
            assert noise not in message, message


@pytest.fixture
def album(tmp_path: Path) -> Path:
    for name in ("b.JPG", "a.png", "deep/c.webp", "deep/notes.txt", "out/pred/a.png", "out/overlay/a.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "folder.jpg").mkdir()
    return tmp_path


def test_pictures_are_found_in_files_folders_and_patterns(album: Path) -> None:
    def names(*inputs: str, skip: tuple[Path, ...] = ()) -> list[str]:
        return [str(p.relative_to(album)) for p in find_pictures([str(album / i) for i in inputs], skip=skip)]

    everything = ["a.png", "b.JPG", "deep/c.webp", "out/overlay/a.png", "out/pred/a.png"]
    assert names(".") == everything
    assert names(".", skip=(album / "out" / "pred", album / "out" / "overlay")) == everything[:3]
    assert names("b.JPG", ".", "a.png") == ["b.JPG", *(n for n in everything if n != "b.JPG")]  # each once
    assert names("*.png") == ["a.png"]
    assert names("**/*.webp") == ["deep/c.webp"]
    assert names("deep/notes.txt") == ["deep/notes.txt"]  # a named file is taken, whatever its suffix
    assert names("out/pred", skip=(album / "out" / "overlay",)) == ["out/pred/a.png"]


def test_inputs_without_pictures_are_errors(album: Path) -> None:
    with pytest.raises(DataError, match=r"No file or folder matches .*none\.jpg, .*\*\.gif"):
        find_pictures([str(album / "none.jpg"), str(album / "a.png"), str(album / "*.gif")])
    (album / "bare").mkdir()
    with pytest.raises(DataError, match="no pictures"):
        find_pictures([str(album / "bare")])


def test_an_existing_file_takes_precedence_over_a_pattern(album: Path) -> None:
    (album / "x[1].png").write_bytes(b"")
    assert find_pictures([str(album / "x[1].png")]) == [album / "x[1].png"]
