"""Names of categories in pictures: in their own letters, or as ids if there is no font for them."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from panoptic_cli.categories import CategoryTable
from panoptic_cli.images import fonts
from panoptic_cli.images.drawing import draw_panoptic


def _table(*names: str) -> CategoryTable:
    return CategoryTable.from_list([{"id": i, "name": n, "isthing": 0} for i, n in enumerate(names, 1)], "test")


@pytest.fixture(autouse=True)
def _nothing_remembered() -> Iterator[None]:
    cached = (fonts._find, fonts._has, fonts._installed, fonts._warn_of_missing_letters)
    for function in cached:
        function.cache_clear()
    yield
    for function in cached:
        function.cache_clear()


@pytest.fixture
def no_fonts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A system without fontconfig, whose only font lacks all but the English letters."""
    built_in = ImageFont.load_default(size=20)
    assert isinstance(built_in, ImageFont.FreeTypeFont)
    folder = tmp_path / "fonts"
    folder.mkdir()
    assert isinstance(built_in.path, io.BytesIO)
    (folder / "Plain.ttf").write_bytes(built_in.path.getvalue())
    (folder / "Broken.ttf").write_bytes(b"no font")
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    installed = fonts._installed()
    monkeypatch.setattr(fonts, "_installed", lambda: tuple(p for p in installed if str(tmp_path) in p))
    assert len(fonts._installed()) == 2
    fonts._find.cache_clear()
    return folder


def _drawn_texts(table: CategoryTable, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    texts: list[str] = []
    monkeypatch.setattr(ImageDraw.ImageDraw, "text", lambda self, xy, text, **kwargs: texts.append(text))
    columns = np.repeat(np.arange(1, len(table.categories) + 1, dtype=np.int32), 200)
    maps = np.broadcast_to(columns, (200, len(columns)))
    draw_panoptic(np.zeros((*maps.shape, 3), np.uint8), maps, np.zeros_like(maps), table)
    return sorted(texts)


@pytest.mark.usefixtures("no_fonts")
def test_ids_replace_names_without_a_font_and_one_warning_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table = _table("круг", "tree", "方形")
    for _ in range(2):
        assert _drawn_texts(table, monkeypatch) == ["category 1", "category 3", "tree"]
    warning = capsys.readouterr().err
    assert warning.count("warning:") == 1
    assert "2 category names (круг, 方形)" in warning


@pytest.mark.parametrize("with_fontconfig", [True, False])
@pytest.mark.parametrize("name", ["круг", "água", "żółw", "مثلث"])
def test_a_font_of_the_system_is_used(name: str, with_fontconfig: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not with_fontconfig:
        monkeypatch.setattr("shutil.which", lambda program: None)
    text, font = fonts.label(_table(name), 1, 40)
    if text != name:
        pytest.skip(f"no font of this system has the letters of {name}")
    # Each letter looks different from the box that stands for missing letters, and from the other letters.
    shapes = {letter: (font.getmask(letter).size, bytes(font.getmask(letter))) for letter in {*name, "\U0010ffff"}}
    assert len(set(shapes.values())) == len(shapes)
    assert Path(str(font.path)).is_file()


def test_english_names_need_no_font(no_fonts: Path) -> None:
    text, font = fonts.label(_table("tree", "dining table"), 2, 12)
    assert text == "dining table"
    canvas = Image.new("L", (200, 40))
    ImageDraw.Draw(canvas).text((2, 2), text, fill=255, font=font)
    assert canvas.getbbox() is not None
