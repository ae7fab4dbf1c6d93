"""Finding the files that annotations name, also if tools write the names in another way than the disk has them."""

from __future__ import annotations

import os
import unicodedata
from functools import lru_cache
from pathlib import Path

BACKSLASHES = "file names with a backslash: it separates folders"
OTHER_FORM = "file names in another case or Unicode form than on the disk: the files are used"


def find_file(folder: Path, name: str) -> tuple[Path, str | None]:
    """Finds a file.

    Args:
        folder: the folder of the files.
        name: path of the file relative to it, as annotations have it.

    Returns:
        The path, and in which way it differs from the name: `BACKSLASHES`, `OTHER_FORM`, None if it does not. If there
        is no such file, or several match, the path is that of the name itself.
    """
    path = folder / name
    if path.exists():
        return path, None
    plain = folder / name.replace("\\", "/")
    if "\\" in name and plain.exists():
        return plain, BACKSLASHES
    found = folder
    for part in plain.relative_to(folder).parts:
        match = _match(found, part)
        if match is None:
            return path, None
        found = found / match
    return found, OTHER_FORM


def near_matches(path: Path) -> list[str]:
    """Returns the names beside a missing file that differ from its name in suffix, case or Unicode form only."""
    return _names(path.parent).by_stem.get(_key(path.stem), [])


def _match(folder: Path, name: str) -> str | None:
    """Returns the one name in a folder that is equal but for case and Unicode form."""
    names = _names(folder).by_name.get(_key(name), [])
    return names[0] if len(names) == 1 else None


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


class _Names:
    """The names in a folder, by name and by stem without differences in case and Unicode form."""

    def __init__(self, names: list[str]) -> None:
        self.by_name: dict[str, list[str]] = {}
        self.by_stem: dict[str, list[str]] = {}
        for name in names:
            self.by_name.setdefault(_key(name), []).append(name)
            self.by_stem.setdefault(_key(Path(name).stem), []).append(name)


def _names(folder: Path) -> _Names:
    try:
        return _list(folder, folder.stat().st_mtime_ns)
    except OSError:
        return _Names([])


@lru_cache(maxsize=16)
def _list(folder: Path, changed: int) -> _Names:  # `changed` makes a changed folder be listed again
    return _Names(sorted(os.listdir(folder)))
