"""What the benchmarks share: timing, peak memory, processes, a network and categories like COCO's, records."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from panoptic_cli.categories import CategoryTable
from panoptic_cli.config import Experiment
from panoptic_cli.models import Platform

if TYPE_CHECKING:
    from panoptic_cli.models.panoptic_fpn.network import PanopticFPN

Row = tuple[str, float, str, str]  # what was measured, figure, unit, what to compare it with


def seconds(function: Callable[[], Any], repeats: int = 5, warmups: int = 1) -> float:
    """Returns the median wall time of a call; the warm-up calls trace and allocate."""
    for _ in range(warmups):
        function()
    times = []
    for _ in range(repeats):
        begun = time.perf_counter()
        function()
        times.append(time.perf_counter() - begun)
    return sorted(times)[len(times) // 2]


def peak_memory_mb() -> float:
    """Returns the largest resident size of this process so far, in MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    return float("nan")


def run_in_process(module: str, *arguments: object) -> dict[str, Any]:
    """Runs `python -m module arguments` so that its memory is measured alone; returns the JSON of its last line.

    Raises:
        RuntimeError: it failed; the message ends with its error output.
    """
    command = [sys.executable, "-m", module, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed with code {done.returncode}:\n{done.stderr[-2000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def platform() -> Platform:
    """Returns what graphs are traced for in this process."""
    import tensorflow as tf

    return "gpu" if tf.config.get_visible_devices("GPU") else "cpu"


def coco_like() -> CategoryTable:
    """Returns things 1 to 90 and stuff 92 to 200: they fit the classes of panoptic_fpn_coco."""
    entries = [{"id": i, "name": str(i), "isthing": int(i <= 90)} for i in range(1, 201) if i != 91]
    return CategoryTable.from_list(entries, "benchmark")


def coco_network(experiment: Experiment) -> PanopticFPN:
    """Builds panoptic_fpn_coco with random weights for the categories of `coco_like`."""
    from panoptic_cli.models.panoptic_fpn.label_space import label_space_of
    from panoptic_cli.models.panoptic_fpn.network import PanopticFPN

    return PanopticFPN(experiment.task, label_space_of(experiment, coco_like()))


def shapes_records(folder: Path) -> Path:
    """Generates 200 + 20 pictures of the shapes data set and their records, unless they exist; returns the folder."""
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
