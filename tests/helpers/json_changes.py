"""Random changes of JSON files, for tests that give a command any input."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import strategies as st

ODD: list[Any] = [
    *(None, True, False, 0, -1, 1, 2, 255, 65536, 1 << 24, 1 << 31, 1 << 53, (1 << 62) + 1, 1 << 64, 10**400),
    *(0.0, -0.5, 0.3, 1e-300, 1e300, float("nan"), float("inf"), "", "7", "x.png", "../x", "\0", "é", "\ud800"),
    *([], [[]], {}, [1, 2, 3, 4], [5, 5, 0, 0], [-1e9, -1e9, 2e9, 2e9], [[0, 0, 9, 0, 9, 9]], [[1, 1, 1, 1, 1, 1]]),
    *({"size": [1, 1], "counts": [1]}, {"size": [100, 100], "counts": "o" * 50}, [[float("nan")] * 6], [["a"] * 6]),
]
_REMOVE = object()


def _change(value: Any, path: tuple[Any, ...], new: Any) -> None:
    """Replaces, or removes, what is at a path, unless an earlier change took it away."""
    try:
        for key in path[:-1]:
            value = value[key]
        if new is _REMOVE:
            del value[path[-1]]
        else:
            value[path[-1]] = copy.deepcopy(new)
    except (KeyError, IndexError, TypeError):
        return


@st.composite
def json_changes(draw: st.DrawFn, originals: dict[str, Any]) -> dict[str, Any]:
    """Draws copies of JSON values with one to three changes: something odd at any place, or something removed."""
    values = copy.deepcopy(originals)
    for _ in range(draw(st.integers(1, 3))):
        value = values[draw(st.sampled_from(sorted(values)))]
        path: tuple[Any, ...] = ()
        while True:  # one level after the other, so that few fields of the top are as likely as many coordinates
            at = value
            for key in path:
                at = at[key]
            keys = list(at) if isinstance(at, dict) else list(range(len(at))) if isinstance(at, list) else []
            if not keys or (path and draw(st.integers(0, 3)) == 0):
                break
            path = (*path, draw(st.sampled_from(keys)))
        if path:
            _change(value, path, draw(st.sampled_from([_REMOVE, *ODD])))
    return values
