"""Small statistics of a data set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Self, TypeVar

import numpy as np

_Item = TypeVar("_Item")


class Spread:
    """Smallest, median and largest of many small integers; memory grows only with the number of different values."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()

    def add(self, value: int) -> None:
        """Counts one value."""
        self._counts[value] += 1

    def update(self, other: Spread) -> None:
        """Adds all values of another spread."""
        self._counts.update(other._counts)

    def at(self, fraction: float) -> int:
        """Returns the smallest value that at least this fraction (0..1) of the values does not exceed; 0 if empty."""
        rank, seen = fraction * self._counts.total(), 0
        for value in sorted(self._counts):
            seen += self._counts[value]
            if seen >= rank:
                return value
        return 0

    def values(self) -> np.ndarray:
        """Returns all values, int64, ascending."""
        values = sorted(self._counts)
        return np.repeat(np.array(values, np.int64), [self._counts[value] for value in values])

    def to_dict(self) -> dict[str, int]:
        """Returns min, median and max."""
        return {"min": self.at(0.0), "median": self.at(0.5), "max": self.at(1.0)}


class Counts:
    """Several named counts, each a Counter, a Spread or a dict."""

    def update(self, other: Self) -> None:
        """Adds all counts of another object."""
        for name, value in vars(other).items():
            getattr(self, name).update(value)


def spread_evenly(items: Sequence[_Item], count: int) -> list[_Item]:
    """Returns up to `count` items spread evenly over the sequence, in its order."""
    return [items[place] for place in sorted({i * len(items) // count for i in range(count)})] if items else []
