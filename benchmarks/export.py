"""Benchmark of the SavedModel beside the plain model, each in its own process.

`python -m benchmarks.export [SIDE]` runs it alone, with a network input of SIDE x SIDE pixels.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import Row, coco_like, coco_network, peak_memory_mb, run_in_process, seconds
from panoptic_cli import config

_SIDE = 512
_SHAPE = (480, 640, 3)
_REPEATS = 3


def export(folder: Path, side: int = _SIDE) -> Iterator[Row]:
    """panoptic_fpn_coco on a 640x480 picture, batch 1: from pixels to segments and masks, and to COCO's PNG as well."""
    folder = folder / "export"
    run_in_process("benchmarks.export", "write", folder, side)
    plain = run_in_process("benchmarks.export", "plain", folder, side)
    for name, what in (("plain", "plain model"), ("image_tensor", "SavedModel"), ("compact", "SavedModel, compact")):
        found = plain if name == "plain" else run_in_process("benchmarks.export", name, folder, side)
        beside = "" if name == "plain" else f"{found['wall'] / plain['wall']:.2f} of the plain model's"
        head = f"640x480 picture, input {side}x{side}, {what}"
        yield head, found["wall"], "s", f"{found['cpu']:.2f} s of CPU time; {beside}".rstrip("; ")
        yield f"{head}: until the first answer", found["first"], "s", "TensorFlow imported before"
        yield f"{head}: peak memory", found["memory"], "MB", f"{found['import']:.0f} MB with TensorFlow imported"


def _model(side: int) -> Any:
    import keras

    from panoptic_cli.inference.predictor import LoadedModel

    keras.utils.set_random_seed(0)
    experiment = config.load_experiment(settings=[f"task.model.input_size=[{side},{side},3]"])
    return LoadedModel(experiment, coco_like(), coco_network(experiment), "random weights", None)


def _predictor(name: str, folder: Path, side: int) -> Callable[[], Any]:
    import tensorflow as tf

    pixels = np.random.default_rng(0).integers(0, 256, _SHAPE, np.uint8)
    if name == "plain":
        from panoptic_cli.inference.predictor import Predictor

        predictor = Predictor(_model(side))
        return lambda: predictor.predict(pixels)
    loaded = tf.saved_model.load(str(folder))
    serve = loaded.signatures["compact" if name == "compact" else "serving_default"]
    batch = tf.constant(pixels[None])
    return lambda: (loaded, serve(batch))  # the loaded object owns the variables


def _measure(name: str, folder: Path, side: int) -> dict[str, float]:
    """Returns seconds of wall and CPU time per picture, seconds to the first answer, and peak memory in MB."""
    import tensorflow  # noqa: F401

    if name == "write":
        from panoptic_cli.export.saved_model import export_saved_model

        export_saved_model(_model(side), folder)
        return {}
    imported, begun = peak_memory_mb(), time.perf_counter()
    predict = _predictor(name, folder, side)
    predict()
    first = time.perf_counter() - begun
    wall = seconds(predict, _REPEATS)
    started = time.process_time()
    for _ in range(_REPEATS):
        predict()
    cpu = (time.process_time() - started) / _REPEATS
    return {"wall": wall, "cpu": cpu, "first": first, "memory": peak_memory_mb(), "import": imported}


if __name__ == "__main__":
    if len(sys.argv) == 4:
        sys.stdout.write(json.dumps(_measure(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))) + "\n")
    else:
        with tempfile.TemporaryDirectory() as root:
            for row in export(Path(root), *map(int, sys.argv[1:])):
                sys.stdout.write("{}: {:,.3g} {}  ({})\n".format(*row))
