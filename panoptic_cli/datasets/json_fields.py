"""Reading fields of JSON entries that others wrote: each has the right type and range, or it is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

MAX_SIDE = 65500  # the largest side a JPEG can have; protects from sizes that no memory holds
_LIMIT = 1e12


class FieldError(ValueError):
    """An entry's field is missing or has the wrong type."""


def integer(entry: dict[str, Any], key: str, low: int = 0, high: int = 1 << 62) -> int:
    """Returns an integer of low..high, or raises FieldError."""
    value = entry.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise FieldError(f"{key} must be an integer of {low}..{high}, not {_shown(value)}")
    return value


def relative_path(entry: dict[str, Any], key: str) -> str:
    """Returns a file name that stays inside the folder it will be joined to, or raises FieldError."""
    value = entry.get(key)
    if not isinstance(value, str) or not value:
        raise FieldError(f"{key} must be a file name, not {_shown(value)}")
    if Path(value).is_absolute() or ".." in Path(value).parts or "\0" in value:
        raise FieldError(f"{key} must be a path inside the data folder, not {_shown(value)}")
    return value


def flag(entry: dict[str, Any], key: str) -> bool:
    """Returns whether a field is 1 (false where it is not there), or raises FieldError."""
    value = entry.get(key, 0)
    if value not in (0, 1):
        raise FieldError(f"{key} must be 0 or 1, not {_shown(value)}")
    return bool(value)


def _number(value: Any, key: str) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not -_LIMIT < value < _LIMIT:  # nor NaN
        raise FieldError(f"{key} must be a finite number, not {_shown(value)}")
    return float(value)


def area_or_none(entry: dict[str, Any]) -> float | None:
    """Returns the `area` in pixels, None where there is none; raises FieldError when it is out of range."""
    value = entry.get("area")
    area = None if value is None else _number(value, "area")
    if area is not None and not 0 <= area <= MAX_SIDE**2:
        raise FieldError(f"area must be 0..{MAX_SIDE**2}, not {_shown(value)}")
    return area


def box_or_none(entry: dict[str, Any]) -> tuple[float, float, float, float] | None:
    """Returns the `bbox` (x, y, width, height), None where there is none, or raises FieldError."""
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
    """Returns the value when it is an integer: for naming an entry whose other fields may be broken."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None
