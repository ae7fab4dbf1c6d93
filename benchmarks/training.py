"""Benchmark of the training step."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.common import Row, peak_memory_mb, platform, run_in_process, seconds, shapes_records
from panoptic_cli import config, devices, models
from panoptic_cli.categories import read_categories

if TYPE_CHECKING:
    from panoptic_cli.models.panoptic_fpn.nms import Suppression


def training(folder: Path) -> Iterator[Row]:
    """The training step of the shapes preset, its proposals, and the step of panoptic_fpn_coco."""
    import tensorflow as tf

    from panoptic_cli.pipeline.batches import training_dataset
    from panoptic_cli.training.schedules import build_optimizer
    from panoptic_cli.training.step import TrainingModel

    data = shapes_records(folder)
    table = read_categories(data / "tfrecords" / "categories.json")
    experiment = config.load_experiment(
        "panoptic_fpn_shapes", settings=[f"task.train_data.input_path={data}/tfrecords/train-*"]
    )
    targets = models.training_targets(experiment, table)
    batch = next(iter(training_dataset(experiment, targets, batch_size=8, seed=0)))
    model = TrainingModel(models.create_network(experiment, table), experiment, platform())
    model.compile(optimizer=build_optimizer(experiment.trainer.optimizer_config, 100, "float32"))
    model.optimizer.build(model.network.trainable_variables)
    step = tf.function(model.train_step)
    yield "training step, shapes preset, batch 8", seconds(lambda: step(batch, tf.constant(0))), "s", ""

    kernel, padded = seconds(_proposals("kernel")), seconds(_proposals("padded"))
    ratio = f"{padded / kernel:.0f}x as fast as the suppression that XLA needs"
    yield "proposals of such a step, from random boxes", kernel * 1000, "ms", ratio
    yield "peak memory", peak_memory_mb(), "MB", ""
    yield from _coco_step("float32")
    if devices.cpu_computes_bfloat16():
        yield from _coco_step("bfloat16")


def _proposals(suppression: Suppression) -> Callable[[], Any]:
    """Returns the proposal step of eight 128 px pictures."""
    import tensorflow as tf

    from panoptic_cli.models.panoptic_fpn.anchors import anchor_boxes
    from panoptic_cli.models.panoptic_fpn.rpn import propose

    model = config.load_experiment("panoptic_fpn_shapes").task.model
    anchors = anchor_boxes(model.anchor, (128, 128), model.min_level, model.max_level)
    shapes = {level: boxes.shape[:3] for level, boxes in anchors.items()}
    scores = {level: tf.random.stateless_normal([8, *shape], [0, level]) for level, shape in shapes.items()}
    offsets = {
        level: 0.3 * tf.random.stateless_normal([8, h, w, 4 * a], [1, level]) for level, (h, w, a) in shapes.items()
    }
    size = tf.fill([8, 2], 128.0)

    @tf.function
    def step(scores: Any, offsets: Any) -> Any:
        return propose(scores, offsets, anchors, size, model.roi_generator, training=True, suppression=suppression)

    return functools.partial(step, scores, offsets)


def _coco_step(precision: str) -> Iterator[Row]:
    """The step of panoptic_fpn_coco at 256 px, batch 2."""
    found = run_in_process("benchmarks.training_step", precision)
    parts = f"forward {found['forward']:.2f} s, with gradients {found['gradients']:.2f} s"
    yield f"panoptic_fpn_coco, 256 px, batch 2, {precision}", found["step"], "s", parts
    speed = found["operations"] / found["step"] / 1e9
    yield "its speed", speed, "GFLOP/s", f"a 3x3 convolution in the same run: {found['convolution'] / 1e9:.0f}"
    yield "peak memory of its process", found["peak_memory_mb"], "MB", ""
