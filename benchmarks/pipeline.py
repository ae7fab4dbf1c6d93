"""Benchmark of the input pipeline."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.common import Row, seconds, shapes_records
from panoptic_cli import config
from panoptic_cli.categories import CategoryTable, LabelSpace


def _take(batches: Iterator[Any], count: int) -> None:
    for _ in range(count):
        next(batches)


def pipeline(folder: Path) -> Iterator[Row]:
    """Records to training batches."""
    from panoptic_cli.datasets.pipeline import training_dataset

    data = shapes_records(folder)
    table = CategoryTable.from_file(data / "tfrecords" / "categories.json")
    for size in (128, 512):
        experiment = config.load_experiment(
            "panoptic_fpn_shapes",
            settings=[
                f"task.train_data.input_path={data}/tfrecords/train-*",
                f"task.model.input_size=[{size},{size},3]",
                "task.train_data.global_batch_size=4",
            ],
        )
        batches = iter(training_dataset(experiment, LabelSpace.create(table), batch_size=4, seed=0))
        each = seconds(functools.partial(_take, batches, 10)) / 40
        yield f"input pipeline, {size}x{size}, batch 4", 1 / each, "images/s", ""
