"""Benchmark of the conversion of pictures to records."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.common import Row, shapes_records


def conversion(folder: Path) -> Iterator[Row]:
    """Pictures to records."""
    begun = time.perf_counter()
    shapes_records(folder)
    yield "generate and convert 220 shapes, 2 workers", 220 / (time.perf_counter() - begun), "images/s", ""
