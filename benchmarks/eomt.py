"""Benchmark of EoMT: network, fusion, end to end, and the training step, in float32 and bfloat16.

`python -m benchmarks.eomt network PRESET PRECISION` and `python -m benchmarks.eomt step PRESET PRECISION [recompute]`
measure one of them in a process of its own, and print the figures as JSON.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.common import Row, peak_memory_mb, platform, run_in_process, seconds
from panoptic_cli import config, devices, models, startup
from panoptic_cli.coco.official_categories import coco_panoptic_categories

_PICTURE = (480, 640)  # pixels
_KEPT = 30  # queries that the fusion places
_BATCH = 2  # of the training step
_SEGMENTS = 12  # of a picture
_MATRIX = 2048  # side of the matrices whose product tells what the machine can do


def eomt(folder: Path) -> Iterator[Row]:
    """The small and the large network at 640 pixels, batch 1, with random weights."""
    for preset in ("eomt_coco_small_640", "eomt_coco_large_640"):
        for precision in ("float32", "bfloat16"):
            found = run_in_process("benchmarks.eomt", "network", preset, precision)
            share = found["operations"] / found["network"] / found["matmul_flops"]
            shared = (
                f"{share:.0%} of the speed of a matrix product of {_MATRIX}; peak {found['peak_memory_mb']:,.0f} MB"
            )
            yield f"{preset}, network, {precision}", found["network"], "s", shared
            beside = f"one picture end to end {found['end_to_end']:.3g} s"
            yield f"{preset}, fusion of {_KEPT} queries, {precision}", found["fusion"], "s", beside
    plain = run_in_process("benchmarks.eomt", "step", "eomt_coco_small_640", "float32")
    for precision, recompute in (("float32", ()), ("float32", ("recompute",)), ("bfloat16", ())):
        found = run_in_process("benchmarks.eomt", "step", "eomt_coco_small_640", precision, *recompute)
        what = f"eomt_coco_small_640, training step of {_BATCH}, {' '.join((precision, *recompute))}"
        shared = f"{found['step'] / plain['step']:.2f} of float32; peak {found['peak_memory_mb']:,.0f} MB"
        yield what, found["step"], "s", shared


def matmul_flops(precision: str) -> float:
    """Returns the floating-point operations a second of a large product of matrices."""
    import tensorflow as tf

    matrix = tf.cast(tf.random.stateless_normal([_MATRIX, _MATRIX], [0, 0]), precision)
    product = tf.function(lambda: tf.matmul(matrix, matrix))
    return 2 * _MATRIX**3 / seconds(product, 5)


def operations(model: Any) -> float:
    """Returns the floating-point operations of the network for one picture: those of its matrix products."""
    c = model.config
    patches = c.grid_size**2
    tokens, width, inner = patches + 1 + c.num_register_tokens, c.hidden_size, c.mlp_size
    total = 2 * patches * 3 * c.patch_size**2 * width
    for number in range(c.num_hidden_layers):
        count = tokens + (c.num_queries if number >= c.num_hidden_layers - c.num_blocks else 0)
        linear = 4 * width**2 + (3 if c.gated else 2) * width * inner
        total += 2 * count * linear + 4 * count**2 * width
    cells = patches
    for _ in range(c.num_upscale_blocks):
        total += 2 * cells * 4 * width**2 + 2 * 9 * 4 * cells * width
        cells *= 4
    return float(total + 2 * c.num_queries * (3 * width**2 + cells * width))


def measure_network(preset: str, precision: str) -> dict[str, float]:
    """Times the network, the fusion and both, and prints nothing."""
    import numpy as np
    import tensorflow as tf

    from panoptic_cli.inference.predictor import LoadedModel, Predictor

    experiment = config.load_experiment(preset, settings=[f"runtime.mixed_precision_dtype={precision}"])
    devices.set_precision(experiment.runtime, half_variables=models.rounds_variables(experiment))  # as in load_model
    table = coco_panoptic_categories()
    model = models.create_network(experiment, table)
    predictor = Predictor(LoadedModel(experiment, table, model, "random", None))
    pixels = np.random.default_rng(0).integers(0, 256, (*_PICTURE, 3), np.uint8)
    image, geometry = predictor.preprocessing.prepare(tf.constant(pixels))
    batch = type(geometry)(*(x[None] for x in geometry))
    result = {"network": seconds(lambda: predictor.run(image[None], batch), 5), "peak_memory_mb": peak_memory_mb()}
    outputs = confident(predictor.run(image[None], batch)[0])
    result["fusion"] = seconds(lambda: predictor.finish(outputs, geometry), 5)
    result["end_to_end"] = seconds(lambda: predictor.predict(pixels), 3)
    return {**result, "operations": operations(model), "matmul_flops": matmul_flops(precision)}


def confident(outputs: dict[str, Any]) -> dict[str, Any]:
    """Returns outputs with blobs as masks, of which the fusion places `_KEPT`."""
    import numpy as np

    queries, height, width = outputs["mask_logits"].shape
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:height, :width]
    centers, radii = rng.uniform(0, height, (queries, 2)), rng.uniform(height / 12, height / 4, queries)
    distance = np.hypot(y - centers[:, :1, None], x - centers[:, 1:, None])
    classes = np.full(outputs["class_logits"].shape, -4.0, np.float32)
    classes[:, -1] = 8
    classes[:_KEPT, -1] = -4
    classes[np.arange(_KEPT), np.arange(_KEPT)] = 9
    return {"class_logits": classes, "mask_logits": (radii[:, None, None] - distance).astype(np.float32)}


def measure_step(preset: str, precision: str, *, recompute: bool) -> dict[str, float]:
    """Times the training step on random pictures with random segments."""
    import numpy as np
    import tensorflow as tf

    from panoptic_cli.training.parameter_groups import parameter_groups
    from panoptic_cli.training.schedules import build_optimizer
    from panoptic_cli.training.step import TrainingModel

    settings = [f"runtime.mixed_precision_dtype={precision}", f"trainer.recompute={str(recompute).lower()}"]
    experiment = config.load_experiment(preset, settings=settings)
    devices.set_precision(experiment.runtime)
    network = models.create_network(experiment, coco_panoptic_categories())
    model = TrainingModel(network, experiment, platform())
    optimization = experiment.trainer.optimizer_config
    groups = parameter_groups(network, optimization.layer_decay)
    optimizer = build_optimizer(optimization, 100, precision, groups)
    optimizer.build(model.trainable_variables)
    model.compile(optimizer=optimizer)
    size, rng = models.input_size(experiment), np.random.default_rng(0)
    maps = np.kron(rng.integers(0, _SEGMENTS + 1, (_BATCH, 8, 8)), np.ones((size[0] // 8, size[1] // 8), int))
    classes = np.full((_BATCH, experiment.task.train_data.parser.max_num_instances), -1)
    classes[:, :_SEGMENTS] = rng.integers(0, 133, (_BATCH, _SEGMENTS))
    batch = {
        "images": tf.constant(rng.normal(size=(_BATCH, *size, 3)), tf.float32),
        "segment_map": tf.constant(maps, tf.int32),
        "segment_classes": tf.constant(classes, tf.int32),
    }
    step = tf.function(model.train_step)
    return {"step": seconds(lambda: step(batch, tf.constant(0)), 3), "peak_memory_mb": peak_memory_mb()}


if __name__ == "__main__":
    startup.own_process()
    part, name, kind = sys.argv[1:4]
    experiment = config.load_experiment(name, settings=[f"runtime.mixed_precision_dtype={kind}"])
    startup.import_tensorflow(models.prefers_onednn(experiment, training=part == "step"))  # as in the commands
    measured = (
        measure_network(name, kind)
        if part == "network"
        else measure_step(name, kind, recompute="recompute" in sys.argv)
    )
    print(json.dumps(measured))
