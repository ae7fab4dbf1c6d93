"""What the benchmarks share: timing, peak memory, a COCO-like label space, generated records."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from panoptic_cli.categories import CategoryTable, LabelSpace

Row = tuple[str, float, str, str]  # what, figure, unit, compared with


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


def coco_like() -> LabelSpace:
    """COCO's counts of things and stuff in the reference's label space."""
    entries = [{"id": i, "name": str(i), "isthing": int(i <= 90)} for i in range(1, 201) if i != 91]
    return LabelSpace.create(CategoryTable.from_list(entries, "benchmark"), 90, 91, 111)


def shapes_records(folder: Path) -> Path:
    """Generates 200 + 20 pictures of the shapes set and their records, unless they are there; returns the folder."""
    from panoptic_cli.coco import layout
    from panoptic_cli.demo import shapes
    from panoptic_cli.records import conversion
    from panoptic_cli.records.plans import ConversionPlan

    data = folder / "shapes"
    if (data / "tfrecords" / "val.manifest.json").exists():
        return data
    shapes.generate(data, train=200, val=20)
    plans = [ConversionPlan(files, data / "tfrecords", 4) for files in layout.find_splits(data)]
    conversion.convert_all(plans, 2)
    return data
