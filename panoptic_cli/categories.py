"""The category table: the only source of class counts, names, colours and label offsets."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from panoptic_cli import storage
from panoptic_cli.errors import DataError, summarize
from panoptic_cli.files import read_json

VOID_ID = 0  # category id and segment id of unlabelled pixels
ANY_THING = -1  # in semantic maps: any thing; a semantic head does not distinguish things
MAX_CATEGORY_ID = 65535  # the largest id that the 16-bit label pictures of records can hold
_MAX_ID = 1 << 62  # the largest id accepted in annotations

_WHOLE = re.compile(r"\s*[+-]?[0-9]{1,19}(\.0*)?\s*")
_EXACT = 1 << 53  # up to here, a float holds every integer
_WORDS = {"true": 1, "false": 0}


@dataclass(frozen=True)
class Category:
    """One category of a panoptic data set.

    Attributes:
        id: the id in the data set, at least 1 (0 is void).
        name: the display name.
        isthing: whether it is countable (a thing) or stuff.
        color: (red, green, blue), each 0..255.
        supercategory: the group that it belongs to; may be empty.
    """

    id: int
    name: str
    isthing: bool
    color: tuple[int, int, int]
    supercategory: str = ""


@dataclass(frozen=True)
class CategoryTable:
    """The categories of a data set, in the order of its file."""

    categories: tuple[Category, ...]

    @classmethod
    def from_list(cls, entries: Iterable[Mapping[str, Any]], source: str) -> CategoryTable:
        """Builds the table from the `categories` list of a COCO panoptic JSON.

        Args:
            entries: mappings with id, name, isthing and, optionally, color and supercategory. Numbers may be written as
                96.0 or "96", isthing as true, colours as "#rrggbb".
            source: where they come from, for error messages.

        Raises:
            DataError: entries are incomplete, repeated or out of range; lists all of them.
        """
        problems: list[str] = []
        categories: list[Category] = []
        seen: set[int] = set()
        for place, entry in enumerate(entries):
            where = f"categories[{place}]"
            if not isinstance(entry, Mapping):
                problems.append(f"{where} is not an object")
                continue
            missing = [key for key in ("id", "name", "isthing") if entry.get(key) is None]
            if missing:
                problems.append(f"{where} ({entry.get('name', '?')}) has no {', '.join(missing)}")
                continue
            identifier, isthing = whole_number(entry["id"]), flag_or_none(entry["isthing"])
            if identifier is None or not 1 <= identifier <= _MAX_ID:
                problems.append(f"{where}: id must be an integer from 1 to 2^62, not {entry['id']!r:.40}")
                continue
            if identifier in seen:
                problems.append(f"{where}: id {identifier} is listed twice")
                continue
            if isthing is None:
                problems.append(f"{where}: isthing must be 0 or 1, not {entry['isthing']!r:.40}")
                continue
            seen.add(identifier)
            try:
                color = color_or_none(entry.get("color"))
            except ValueError as error:
                problems.append(f"{where}: {error}")
                continue
            categories.append(
                Category(
                    id=identifier,
                    name=str(entry["name"]),
                    isthing=isthing,
                    color=color or _default_color(identifier),
                    supercategory=str(entry.get("supercategory", "")),
                )
            )
        if not problems and not categories:
            problems.append("it lists no categories")
        if problems:
            raise DataError(
                f"The category table of {source} is invalid: {summarize(problems)}.",
                "Each category needs an id, a name and isthing, as in COCO's panoptic JSON.",
            )
        return cls(tuple(categories))

    def to_list(self) -> list[dict[str, Any]]:
        """Returns the `categories` list of a COCO panoptic JSON."""
        return [
            {
                "id": c.id,
                "name": c.name,
                "isthing": int(c.isthing),
                "color": list(c.color),
                "supercategory": c.supercategory,
            }
            for c in self.categories
        ]

    @cached_property
    def by_id(self) -> dict[int, Category]:
        """Maps a category id to its category."""
        return {c.id: c for c in self.categories}

    @cached_property
    def things(self) -> tuple[Category, ...]:
        """The countable categories, in table order."""
        return tuple(c for c in self.categories if c.isthing)

    @cached_property
    def stuff(self) -> tuple[Category, ...]:
        """The uncountable categories, in table order."""
        return tuple(c for c in self.categories if not c.isthing)

    @property
    def max_id(self) -> int:
        """The largest category id."""
        return max(c.id for c in self.categories)


def read_categories(path: str | Path) -> CategoryTable:
    """Reads the categories from a COCO panoptic JSON, or from a categories.json, which contains only the list.

    Args:
        path: the file; local or remote.

    Raises:
        DataError: the file is missing, is not valid JSON, or has no usable list of categories.
    """
    if storage.is_remote(str(path)):
        text = storage.read_text(str(path))
        if text is None:
            raise DataError(f"The categories file {path} does not exist.", "Check the path.")
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise DataError(f"The categories file {path} is not valid JSON: {error}.", "Create it again.") from None
    else:
        value = read_json(Path(path), "categories")
    entries = value.get("categories") if isinstance(value, dict) else value
    if not isinstance(entries, list):
        raise DataError(f"{path} has no list of categories.", "Give a COCO panoptic JSON or a categories.json.")
    return CategoryTable.from_list(entries, str(path))


def whole_number(value: Any) -> int | None:
    """Returns the integer that a JSON value stands for: 96, 96.0 or "96"; None for any other value."""
    if isinstance(value, str) and _WHOLE.fullmatch(value):
        return int(value.partition(".")[0])
    if isinstance(value, float) and value.is_integer() and abs(value) <= _EXACT:
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def flag_or_none(value: Any) -> bool | None:
    """Returns the truth value of 0 or 1, of false or true, and of the same as text; None for any other value."""
    number = int(value) if isinstance(value, bool) else whole_number(value)
    if number is None and isinstance(value, str):
        number = _WORDS.get(value.strip().lower())
    return bool(number) if number in (0, 1) else None


def color_or_none(value: Any) -> tuple[int, int, int] | None:
    """Returns a `color`: three integers of 0..255, or "#rrggbb"; None for null, [] and "".

    Raises:
        ValueError: the value has another form.
    """
    if value is None or value in ([], ""):
        return None
    if isinstance(value, str) and re.fullmatch("#[0-9a-fA-F]{6}", value):
        value = list(bytes.fromhex(value[1:]))
    parts = [whole_number(part) for part in value] if isinstance(value, list | tuple) else []
    channels = [part for part in parts if part is not None and 0 <= part <= 255]
    if len(parts) != 3 or len(channels) != 3:
        raise ValueError(f"color must be three integers of 0..255, not {value!r:.40}")
    return channels[0], channels[1], channels[2]


def _default_color(identifier: int) -> tuple[int, int, int]:
    """Returns a fixed, well-spread colour for a category without one (golden-ratio steps around the hue circle)."""
    import colorsys

    hue = (identifier * 0.618033988749895) % 1.0
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.65, 0.95)
    return round(red * 255), round(green * 255), round(blue * 255)
