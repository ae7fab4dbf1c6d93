"""Reading fields of JSON entries and checking their types and ranges.

Other tools write a number as 96.0 or "96". Such numbers are read as what they are, and noted.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from panoptic_cli.categories import flag_or_none, whole_number
from panoptic_cli.coco.problems import Notes

MAX_SIDE = 65500  # largest side of a JPEG; protects against sizes that exceed memory
MAX_NUMBER = 1e12  # largest magnitude of coordinates

_DECIMAL = re.compile(r"\s*[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)(e[+-]?[0-9]{1,3})?\s*", re.IGNORECASE)
UNUSUAL_NUMBERS = 'numbers written as text or as "96.0"', "read as numbers"


class FieldError(ValueError):
    """An entry's field is missing or has the wrong type."""


def integer(entry: dict[str, Any], key: str, low: int = 0, high: int = 1 << 62, notes: Notes | None = None) -> int:
    """Returns an integer of low..high, or raises FieldError.

    Args:
        entry: the entry.
        key: key of the field.
        low: the smallest valid value.
        high: the largest valid value.
        notes: receives a note if the number is written in another way; None if it is noted elsewhere.
    """
    value = entry.get(key)
    number = whole_number(value)
    if number is None or not low <= number <= high:
        raise FieldError(f"{key} must be an integer in {low}..{high}, not {_shown(value)}")
    _note(value, int, notes)
    return number


def _note(value: Any, expected: type, notes: Notes | None) -> None:
    if notes is not None and (isinstance(value, str) or (expected is int and not isinstance(value, int))):
        notes.add(*UNUSUAL_NUMBERS)


def size_or_none(entry: dict[str, Any], notes: Notes | None = None) -> tuple[int, int] | None:
    """Returns (width, height), None if one of them is missing, empty, 0 or -1; raises FieldError for other values."""
    sides = entry.get("width"), entry.get("height")
    if any(side is None or side == "" or whole_number(side) in (0, -1) for side in sides):
        if notes is not None:
            notes.add("images without width and height", "taken from the files")
        return None
    return integer(entry, "width", 1, MAX_SIDE, notes), integer(entry, "height", 1, MAX_SIDE, notes)


def relative_path(entry: dict[str, Any], key: str) -> str:
    """Returns a file name that stays inside its folder, or raises FieldError."""
    value = entry.get(key)
    if not isinstance(value, str) or not value:
        raise FieldError(f"{key} must be a file name, not {_shown(value)}")
    if not is_inside(value):
        raise FieldError(f"{key} must be a path inside the data folder, not {_shown(value)}")
    return value


def is_inside(name: str) -> bool:
    """Whether a file name is valid, not empty, and stays inside the folder that it is joined to.

    A backslash may separate folders, too.
    """
    plain = name.replace("\\", "/") if "\\" in name else name
    if not name or "\0" in name or os.path.isabs(plain) or (".." in plain and ".." in Path(plain).parts):
        return False
    return name.isascii() or not any("\ud800" <= character <= "\udfff" for character in name)


def flag(entry: dict[str, Any], key: str, notes: Notes | None = None) -> bool:
    """Returns whether a field is 1 or true (false if it is missing or null), or raises FieldError."""
    value = entry.get(key)
    if value is None:
        return False
    truth = flag_or_none(value)
    if truth is None:
        raise FieldError(f"{key} must be 0 or 1, not {_shown(value)}")
    if not isinstance(value, bool):
        _note(value, int, notes)
    return truth


def _number(value: Any, key: str, notes: Notes | None) -> float:
    number = float(value) if isinstance(value, str) and _DECIMAL.fullmatch(value) else value
    valid = isinstance(number, int | float) and not isinstance(number, bool)
    if not valid or not -MAX_NUMBER < number < MAX_NUMBER:  # nor NaN
        raise FieldError(f"{key} must be a finite number, not {_shown(value)}")
    _note(value, float, notes)
    return float(number)


def area_or_none(entry: dict[str, Any], notes: Notes | None = None) -> float | None:
    """Returns the `area` in pixels, None if it is missing or negative; raises FieldError if it is out of range."""
    value = entry.get("area")
    area = None if value is None else _number(value, "area", notes)
    if area is not None and area < 0:
        if notes is not None:
            notes.add("negative areas", "pixels are counted")
        return None
    if area is not None and area > MAX_SIDE**2:
        raise FieldError(f"area must be in 0..{MAX_SIDE**2}, not {_shown(value)}")
    return area


def box_or_none(entry: dict[str, Any], notes: Notes | None = None) -> tuple[float, float, float, float] | None:
    """Returns the `bbox` (x, y, width, height), None if it is missing or no four values, or raises FieldError."""
    value = entry.get("bbox")
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != 4:
        if notes is not None:
            notes.add(
                "boxes that are not [x, y, width, height]", f"those of the masks are taken, such as {_shown(value)}"
            )
        return None
    x, y, width, height = (_number(v, "bbox", notes) for v in value)
    return x, y, width, height


def _shown(value: Any) -> str:
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
