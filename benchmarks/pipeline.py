"""Benchmark of the input pipeline: COCO's records at 512x512 in batches of 4, each pipeline in its own process.

`python -m benchmarks.pipeline [BATCHES]` runs it alone.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.common import Row, peak_memory_mb, run_in_process
from benchmarks.conversion import source_pictures
from panoptic_cli import config, models
from panoptic_cli.categories import read_categories

_BATCH = 4
_BATCHES = 100
_REPEATS = 3
_COPIES = (10, 100)  # of every shard, to show that memory does not grow with the number of records
_HEAD_KEYS = ("stuff_classes_offset", "num_classes", "segmentation_model.num_classes")  # null: as the categories need


def pipeline(folder: Path, batches: int = _BATCHES) -> Iterator[Row]:
    """Records to batches: a plain pipeline, ours for training, and ours for evaluation."""
    records, kind = _records(folder)
    count, size = _count_and_size(records)
    for name, what in (("plain", "plain training"), ("ours", "training"), ("evaluation", "evaluation")):
        found = run_in_process("benchmarks.pipeline", name, records, batches)
        head = f"{kind}, 512x512, batch {_BATCH}, {what}"
        processor = f"{found['cpu'] * 1000:.1f} ms of CPU time an image"
        yield head, 1 / found["wall"], "images/s", processor
        yield f"{head}: read", size / count / found["wall"] / 1e6, "MB/s", "of records"
        yield f"{head}: until the first batch", found["first"], "s", "TensorFlow imported before"
        yield f"{head}: peak memory", found["memory"], "MB", f"{found['import']:.0f} MB with TensorFlow imported"
    for copies in _COPIES:
        many = _copies(records, folder / f"copies{copies}", copies)
        found = run_in_process("benchmarks.pipeline", "ours", many, batches)
        yield f"{kind}, training, {copies * count:,} records: peak memory", found["memory"], "MB", ""
        yield f"{kind}, training, {copies * count:,} records: until the first batch", found["first"], "s", ""


def _records(folder: Path) -> tuple[Path, str]:
    from panoptic_cli.coco import layout
    from panoptic_cli.records.conversion import convert_all
    from panoptic_cli.records.plans import ConversionPlan

    source, kind = source_pictures(folder)
    records = folder / "pipeline_records"
    convert_all([ConversionPlan(layout.coco_files(source, "train"), records, 32)], 2)
    return records, kind


def _count_and_size(records: Path) -> tuple[int, int]:
    """Returns the number of records, and the bytes of their files."""
    from panoptic_cli.records.files import count_records

    files = list(records.glob("train-*"))
    return sum(count_records([str(path) for path in files])), sum(path.stat().st_size for path in files)


def _copies(records: Path, target: Path, copies: int) -> Path:
    target.mkdir()
    for path in records.glob("train-*"):
        for number in range(copies):
            (target / f"{path.name}.{number}").symlink_to(path)
    (target / "categories.json").symlink_to(records / "categories.json")
    return target


def _dataset(name: str, records: Path) -> Any:
    from benchmarks.plain_pipeline import plain_dataset
    from panoptic_cli.pipeline.batches import evaluation_dataset, training_dataset

    pattern, table = f"{records}/train-*", read_categories(records / "categories.json")
    settings = [f"task.train_data.input_path={pattern}", "task.model.input_size=[512,512,3]"]
    if table.max_id <= 90:  # the generated pictures have other categories than COCO
        settings += [f"task.model.{key}=null" for key in _HEAD_KEYS]
    experiment = config.load_experiment("panoptic_fpn_coco", settings=settings)
    targets = models.training_targets(experiment, table)
    if name == "evaluation":
        return evaluation_dataset(pattern, targets.preprocessing, batch_size=_BATCH).repeat()
    if name == "plain":
        return plain_dataset(experiment, table, _BATCH)
    return training_dataset(experiment, targets, batch_size=_BATCH, seed=0)


def _measure(name: str, records: Path, batches: int) -> dict[str, float]:
    """Returns seconds of wall and CPU time per image (best of three), to the first batch, and peak memory in MB."""
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
    """Measures one pipeline if called with its name, records and batches; otherwise runs the benchmark."""
    if len(sys.argv) == 4:
        print(json.dumps(_measure(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))))
        return
    with tempfile.TemporaryDirectory() as folder:
        for what, figure, unit, note in pipeline(Path(folder), *map(int, sys.argv[1:])):
            print(f"{what}: {figure:,.3g} {unit}  {note}", flush=True)


if __name__ == "__main__":
    main()
