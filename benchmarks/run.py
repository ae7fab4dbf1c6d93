"""`make bench`: times and memory, each figure beside that of a plain alternative in the same run.

`python -m benchmarks.run NAME ...` runs only some of: conversion, pipeline, scoring, fusion, training, network,
evaluation, eomt, export, upload.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.common import Row
from benchmarks.conversion import conversion
from benchmarks.eomt import eomt
from benchmarks.evaluation import evaluation
from benchmarks.export import export
from benchmarks.fusion import fusion
from benchmarks.network import network
from benchmarks.pipeline import pipeline
from benchmarks.scoring import scoring
from benchmarks.training import training
from benchmarks.upload import upload
from panoptic_cli import console
from panoptic_cli.startup import import_tensorflow, own_process

ALL: dict[str, Callable[[Path], Iterator[Row]]] = {
    "conversion": conversion,
    "pipeline": pipeline,
    "scoring": scoring,
    "fusion": fusion,
    "training": training,
    "network": network,
    "evaluation": evaluation,
    "eomt": eomt,
    "export": export,
    "upload": upload,
}


def main() -> None:
    """Runs the named benchmarks; all if none are named."""
    names = sys.argv[1:] or list(ALL)
    own_process()  # freed memory is kept, as in the commands
    import_tensorflow()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            for what, figure, unit, note in ALL[name](Path(folder)):
                rows.append([name, what, f"{figure:,.3g} {unit}", note])
                console.info(f"{name}: {what}: {figure:,.3g} {unit}  {note}")
    console.result({"rows": rows}, console.table("Benchmarks", ["part", "what", "figure", "beside"], rows, left=4))


if __name__ == "__main__":
    main()
