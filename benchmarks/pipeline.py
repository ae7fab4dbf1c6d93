"""Benchmark of the input pipeline: COCO's records at 512x512 in batches of 4, each pipeline in a process of its own.

python -m benchmarks.pipeline [BATCHES] runs it alone.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import conversion as pictures
from benchmarks.common import Row, peak_memory_mb
from panoptic_cli import config
from panoptic_cli.categories import LabelSpace, read_categories

_BATCH = 4
_BATCHES = 100
_REPEATS = 3
_COPIES = (10, 100)  # of every shard, to show that memory does not grow with the number of records


def pipeline(folder: Path, batches: int = _BATCHES) -> Iterator[Row]:
    """Records to batches: ours, one as first written, and the preparation of evaluation."""
    records, kind = _records(folder)
    bytes_each = _bytes_each(records)
    for name, what in (("plain", "as first written"), ("ours", "training"), ("evaluation", "evaluation")):
        found = _run(name, records, batches)
        head = f"{kind}, 512x512, batch {_BATCH}, {what}"
        processor = f"{found['cpu'] * 1000:.1f} ms of CPU time an image"
        yield head, 1 / found["wall"], "images/s", processor
        yield f"{head}: read", bytes_each / found["wall"] / 1e6, "MB/s", "of records"
        yield f"{head}: until the first batch", found["first"], "s", "TensorFlow imported before"
        yield f"{head}: peak memory", found["memory"], "MB", f"{found['import']:.0f} MB with TensorFlow imported"
    for copies in _COPIES:
        many = _copies(records, folder / f"copies{copies}", copies)
        found = _run("ours", many, batches)
        yield f"{kind}, training, {copies * 100:,} records: peak memory", found["memory"], "MB", ""
        yield f"{kind}, training, {copies * 100:,} records: until the first batch", found["first"], "s", ""


def _records(folder: Path) -> tuple[Path, str]:
    from panoptic_cli.coco import layout
    from panoptic_cli.records.conversion import convert_all
    from panoptic_cli.records.plans import ConversionPlan

    coco = pictures._COCO.is_dir()
    source = pictures._COCO if coco else pictures._generate(folder / "pictures")
    records = folder / "pipeline_records"
    convert_all([ConversionPlan(layout.coco_files(source, "train"), records, 32)], 2)
    return records, "coco100" if coco else "generated 640x480"


def _bytes_each(records: Path) -> float:
    from panoptic_cli.records.files import count_records

    files = [str(path) for path in records.glob("train-*")]
    return sum(Path(path).stat().st_size for path in files) / sum(count_records(files))


def _copies(records: Path, target: Path, copies: int) -> Path:
    target.mkdir()
    for path in records.glob("train-*"):
        for number in range(copies):
            (target / f"{path.name}.{number}").symlink_to(path)
    (target / "categories.json").symlink_to(records / "categories.json")
    return target


def _run(name: str, records: Path, batches: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.pipeline", name, str(records), str(batches)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
    return dict(json.loads(output.splitlines()[-1]))


def _dataset(name: str, records: Path) -> Any:
    from benchmarks.plain_pipeline import plain_dataset
    from panoptic_cli.pipeline.batches import evaluation_dataset, training_dataset

    experiment = config.load_experiment(
        "panoptic_fpn_coco",
        settings=[f"task.train_data.input_path={records}/train-*", "task.model.input_size=[512,512,3]"],
    )
    if name == "evaluation":
        return evaluation_dataset(f"{records}/train-*", experiment.task.model, batch_size=_BATCH).repeat()
    table = read_categories(records / "categories.json")
    of_coco = max(category.id for category in table.categories) > 90
    labels = LabelSpace.create(table, 90, 91, 111) if of_coco else LabelSpace.create(table)
    if name == "plain":
        return plain_dataset(experiment, labels, _BATCH)
    return training_dataset(experiment, labels, batch_size=_BATCH, seed=0)


def _measure(name: str, records: Path, batches: int) -> dict[str, float]:
    """Seconds of wall and CPU time an image (the best of some runs), to the first batch, and peak memory in MB."""
    import tensorflow  # noqa: F401

    imported, begun = peak_memory_mb(), time.perf_counter()
    iterator = iter(_dataset(name, records))
    next(iterator)
    first = time.perf_counter() - begun
    wall, cpu = [], []
    for _ in range(_REPEATS):
        begun, used = time.perf_counter(), time.process_time()
        for _ in range(batches):
            next(iterator)
        wall.append((time.perf_counter() - begun) / batches / _BATCH)
        cpu.append((time.process_time() - used) / batches / _BATCH)
    return {"wall": min(wall), "cpu": min(cpu), "first": first, "memory": peak_memory_mb(), "import": imported}


def main() -> None:
    """Measures one pipeline when called with its name and records, else runs the benchmark."""
    if len(sys.argv) == 4:
        print(json.dumps(_measure(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))))
        return
    with tempfile.TemporaryDirectory() as folder:
        for what, figure, unit, note in pipeline(Path(folder), *map(int, sys.argv[1:])):
            print(f"{what}: {figure:,.3g} {unit}  {note}", flush=True)


if __name__ == "__main__":
    main()
