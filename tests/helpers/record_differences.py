"""Says in which records and features two folders of shards differ; their bytes would fill a terminal."""

from __future__ import annotations

from itertools import zip_longest
from pathlib import Path

import numpy as np

from panoptic_cli.errors import PanopticError
from panoptic_cli.records.schema import decode_example
from panoptic_cli.records.tfrecord import read_records

Feature = list[bytes] | np.ndarray | None


def differing_files(one: Path, two: Path, pattern: str = "*") -> list[str]:
    """Returns a line for each file of two folders that is not the same, byte for byte; an empty list if all are."""
    names = sorted({path.name for folder in (one, two) for path in folder.glob(pattern)})
    return [line for name in names for line in _compare(one / name, two / name)]


def _compare(one: Path, two: Path) -> list[str]:
    missing = [str(path) for path in (one, two) if not path.exists()]
    if missing:
        return [f"{path} is missing" for path in missing]
    if one.read_bytes() == two.read_bytes():
        return []
    if one.suffix != ".tfrecord":
        return [f"{one.name} differs"]
    try:
        pairs = list(zip_longest(read_records(one), read_records(two), fillvalue=b""))
    except PanopticError as error:
        return [f"{one.name} differs and is damaged: {error}"]
    lines = []
    for place, (ours, theirs) in enumerate(pairs):
        if ours != theirs:
            features, others = decode_example(ours), decode_example(theirs)
            unequal = [
                f"{name}: {difference}"
                for name in sorted(features.keys() | others.keys())
                if (difference := _difference(features.get(name), others.get(name)))
            ]
            lines.append(f"{one.name}, record {place}: {'; '.join(unequal) or 'the order of its features'}")
    return lines


def _difference(ours: Feature, theirs: Feature) -> str | None:
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for place, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            if a != b:
                first = next(i for i, (x, y) in enumerate(zip_longest(a, b)) if x != y)
                return f"value {place} of {len(ours)} from byte {first} on: {a[first:][:20]!r} and {b[first:][:20]!r}"
        return None
    if isinstance(ours, np.ndarray) and isinstance(theirs, np.ndarray) and np.array_equal(ours, theirs):
        return None
    return f"{ours!r:.200} and {theirs!r:.200}"
