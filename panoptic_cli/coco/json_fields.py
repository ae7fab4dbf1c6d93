"""Reading fields of JSON entries and checking their types and ranges."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

MAX_SIDE = 65500  # largest side of a JPEG; protects against sizes that exceed memory
MAX_NUMBER = 1e12  # largest magnitude of coordinates


class FieldError(ValueError):
    """An entry's field is missing or has the wrong type."""


def integer(entry: dict[str, Any], key: str, low: int = 0, high: int = 1 << 62) -> int:
    """Returns an integer of low..high, or raises FieldError."""
    value = entry.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise FieldError(f"{key} must be an integer in {low}..{high}, not {_shown(value)}")
    return value


def relative_path(entry: dict[str, Any], key: str) -> str:
    """Returns a file name that stays inside its folder, or raises FieldError."""
    value = entry.get(key)
    if not isinstance(value, str) or not value:
        raise FieldError(f"{key} must be a file name, not {_shown(value)}")
    if not is_inside(value):
        raise FieldError(f"{key} must be a path inside the data folder, not {_shown(value)}")
    return value


def is_inside(name: str) -> bool:
    """Whether a file name is valid, not empty, and stays inside the folder that it is joined to."""
    if not name or "\0" in name or os.path.isabs(name) or (".." in name and ".." in Path(name).parts):
        return False
    return name.isascii() or not any("\ud800" <= character <= "\udfff" for character in name)


def flag(entry: dict[str, Any], key: str) -> bool:
    """Returns whether a field is 1 (false if it is missing), or raises FieldError."""
    value = entry.get(key, 0)
    if value not in (0, 1):
        raise FieldError(f"{key} must be 0 or 1, not {_shown(value)}")
    return bool(value)


def _number(value: Any, key: str) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not -MAX_NUMBER < value < MAX_NUMBER:  # nor NaN
        raise FieldError(f"{key} must be a finite number, not {_shown(value)}")
    return float(value)


def area_or_none(entry: dict[str, Any]) -> float | None:
    """Returns the `area` in pixels, None if it is missing; raises FieldError if it is out of range."""
    value = entry.get("area")
    area = None if value is None else _number(value, "area")
    if area is not None and not 0 <= area <= MAX_SIDE**2:
        raise FieldError(f"area must be in 0..{MAX_SIDE**2}, not {_shown(value)}")
    return area


def box_or_none(entry: dict[str, Any]) -> tuple[float, float, float, float] | None:
    """Returns the `bbox` (x, y, width, height), None if it is missing, or raises FieldError."""
    value = entry.get("bbox")
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != 4:
        raise FieldError(f"bbox must be [x, y, width, height], not {_shown(value)}")
    x, y, width, height = (_number(v, "bbox") for v in value)
    return x, y, width, height


def _shown(value: Any) -> str:
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


def integer_or_none(value: Any) -> int | None:
    """Returns the value if it is an integer: names an entry whose other fields may be broken."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None
