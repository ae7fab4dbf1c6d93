"""The ids of pictures in annotation files: numbers, or texts that are numbered."""

from __future__ import annotations

from typing import Any

from panoptic_cli.categories import whole_number
from panoptic_cli.coco.json_fields import FieldError, integer
from panoptic_cli.coco.problems import Notes

ImageId = int | str


class ImageIds:
    """Numbers pictures.

    Args:
        numbers: None for ids that are numbers and are used as they are. Otherwise the number of each id, as text. Ids
            that are not there get the numbers -1, -2 and so on, or with `learn` the numbers from 1 on.
        learn: see above.

    Attributes:
        texts: ids that are no numbers, if `numbers` is None.
    """

    def __init__(self, numbers: dict[str, int] | None = None, learn: bool = False) -> None:
        self.texts: list[str] = []
        self._numbers = numbers
        self._learn = learn

    @property
    def renumbered(self) -> bool:
        """Whether the numbers are not the ids themselves."""
        return self._numbers is not None

    def close(self) -> None:
        """Ends learning."""
        self._learn = False

    def of(self, value: int | str) -> int:
        """Returns the number of a valid id."""
        if self._numbers is None:
            return int(value)
        key = str(value)
        if key not in self._numbers:
            self._numbers[key] = (1 if self._learn else -1) * (len(self._numbers) + 1)
        return self._numbers[key]

    def of_all(self, values: list[int]) -> list[int]:
        """Returns the numbers of valid ids."""
        return values if self._numbers is None else [self.of(value) for value in values]

    def read(self, entry: dict[str, Any], key: str, notes: Notes | None) -> int:
        """Returns the number of the id in an entry's field, or raises FieldError."""
        value = entry.get(key)
        if self._numbers is None:
            if isinstance(value, str) and value and whole_number(value) is None:
                self.texts.append(value)
            return integer(entry, key, notes=notes)
        text = id_key(value)
        if text is None:
            raise FieldError(f"{key} must be an image id, not {value!r:.40}")
        return self.of(text)

    def number(self, value: Any) -> int | None:
        """Returns the number of an id, None if it has none: names an entry whose other fields may be broken."""
        if self._numbers is None:
            return whole_number(value)
        return self._numbers.get(id_key(value) or "")

    def shown(self, number: int) -> str:
        """Returns the id that has a number, for messages."""
        if self._numbers is None:
            return str(number)
        return next((repr(key) for key, known in self._numbers.items() if known == number), str(number))


def image_key(value: Any) -> ImageId | None:
    """Returns an image id in one form: 139 for 139, 139.0, "139" and "000000000139"; None for what is no id."""
    number = whole_number(value)
    return number if number is not None else value if isinstance(value, str) and value else None


def id_key(value: Any) -> str | None:
    """Returns an id as text, the same for 7, 7.0 and "007"; None if the value is no id."""
    key = image_key(value)
    return None if key is None else str(key)
