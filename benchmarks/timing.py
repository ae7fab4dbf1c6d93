"""Timing and peak memory of a function."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def seconds(function: Callable[[], Any], repeats: int = 5, warmups: int = 1) -> float:
    """The median wall time of a call, after calls that trace and allocate."""
    for _ in range(warmups):
        function()
    times = []
    for _ in range(repeats):
        begun = time.perf_counter()
        function()
        times.append(time.perf_counter() - begun)
    return sorted(times)[len(times) // 2]


def peak_memory_mb() -> float:
    """The largest resident size of this process so far, in MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    return float("nan")
