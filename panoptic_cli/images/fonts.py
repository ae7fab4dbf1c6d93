"""Fonts for names in any script: Pillow's built-in font, or one of the system that has the letters."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import unicodedata
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from PIL import ImageFont, features

from panoptic_cli import console
from panoptic_cli.categories import CategoryTable
from panoptic_cli.errors import listed

_BUILT_IN = ""
_BESIDE_NAMES = "0123456789%"  # scores are written in the same font
_NO_CHARACTER = "\U0010ffff"  # fonts draw their sign for a missing letter instead
_PROBE = 20  # pixels, to compare letters with that sign
_SUFFIXES = (".ttf", ".otf", ".ttc", ".otc")
_SPECIAL = ("bold", "italic", "oblique", "light", "thin", "black", "mono", "condensed", "emoji", "serif")
_SECONDS = 10.0  # for fontconfig


def label(table: CategoryTable, category_id: int, size: int) -> tuple[str, ImageFont.FreeTypeFont]:
    """Returns the words for a category in a picture, and a font for them and for percentages.

    Args:
        table: the categories.
        category_id: an id, of the table or not.
        size: of the font, in pixels.

    Returns:
        The category's name; "category 7" for ids that are not in the table, and for names in letters of which this
        system has no font. The latter is warned of once.
    """
    _warn_of_missing_letters(tuple(category.name for category in table.categories))
    known = table.by_id.get(category_id)
    path = None if known is None else _find(frozenset(known.name + _BESIDE_NAMES))
    if known is None or path is None:
        return f"category {category_id}", _load(_BUILT_IN, size)
    return known.name, _load(path, size)


@cache
def _warn_of_missing_letters(names: tuple[str, ...]) -> None:
    missing = [name for name in names if _find(frozenset(name + _BESIDE_NAMES)) is None]
    if missing:
        console.warn(
            f"This system has no font with the letters of {len(missing)} category names ({listed(missing, 3)}): "
            "pictures show their ids. Install a font for them, such as Noto Sans."
        )


@cache
def _find(characters: frozenset[str]) -> str | None:
    """Returns the path of a font with these characters, `_BUILT_IN` for Pillow's, None if there is none."""
    letters = "".join(sorted(c for c in characters if c.isprintable() and not c.isspace()))
    if any(unicodedata.bidirectional(c) in ("R", "AL") for c in letters) and not features.check("raqm"):
        return None  # Pillow would write Arabic and Hebrew from left to right
    for path in (_BUILT_IN, *_candidates(letters)):
        if _has(path, letters):
            return path
    return None


def _candidates(letters: str) -> Iterator[str]:
    """Yields paths of fonts that may have the letters, the most suitable first."""
    program = shutil.which("fc-match")
    if program is None:
        yield from _installed()
        return
    pattern = f"sans-serif:charset={' '.join(f'{ord(c):x}' for c in letters)}"
    try:
        found = subprocess.run(
            [program, "--format", "%{file}\n", pattern], capture_output=True, text=True, timeout=_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError, ValueError):
        yield from _installed()
        return
    yield from found.stdout.splitlines()


@cache
def _installed() -> tuple[str, ...]:
    """Finds the font files in the folders of Linux, macOS and Windows; plain ones first."""
    home, data = Path.home(), os.environ.get("XDG_DATA_HOME")
    if sys.platform == "win32":
        local = Path(os.environ.get("LOCALAPPDATA", home))
        folders = [Path(os.environ.get("WINDIR", "C:/Windows")) / "Fonts", local / "Microsoft/Windows/Fonts"]
    elif sys.platform == "darwin":
        folders = [home / "Library/Fonts", Path("/Library/Fonts"), Path("/System/Library/Fonts")]
    else:
        folders = [Path(data) if data else home / ".local/share", Path("/usr/local/share"), Path("/usr/share")]
        folders = [home / ".fonts", *(folder / "fonts" for folder in folders)]
    files = [path for folder in folders for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES]
    return tuple(map(str, sorted(files, key=lambda p: (sum(word in p.name.lower() for word in _SPECIAL), p.name))))


@cache
def _has(path: str, letters: str) -> bool:
    """Whether a font can be read and draws every letter."""
    try:
        font = _load(path, _PROBE)
        missing = font.getmask(_NO_CHARACTER)
        signs = [font.getmask(letter) for letter in letters]
    except (OSError, ValueError):
        return False
    return all((sign.size, bytes(sign)) != (missing.size, bytes(missing)) for sign in signs)


@cache
def _load(path: str, size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size=size) if path == _BUILT_IN else ImageFont.truetype(path, size)
    assert isinstance(font, ImageFont.FreeTypeFont), "Pillow has FreeType"
    return font
