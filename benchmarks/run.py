"""`make bench`: where the time goes, each figure beside a plain way of doing the same in the same run.

python -m benchmarks.run [name ...] runs some of: conversion, pipeline, network, fusion, scoring, training.
"""

from __future__ import annotations

import functools
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.timing import peak_memory_mb, seconds
from panoptic_cli import config, console
from panoptic_cli.categories import CategoryTable, LabelSpace
from panoptic_cli.startup import import_tensorflow

Row = tuple[str, float, str, str]  # what, figure, unit, compared with


def _coco_like() -> LabelSpace:
    entries = [{"id": i, "name": str(i), "isthing": int(i <= 90)} for i in range(1, 201) if i != 91]
    return LabelSpace.create(CategoryTable.from_list(entries, "benchmark"), 90, 91, 111)


def _shapes(folder: Path) -> Path:
    from panoptic_cli.datasets import conversion, layout, shapes

    data = folder / "shapes"
    shapes.generate(data, train=200, val=20)
    for files in layout.find_splits(data):
        plan = conversion.ConversionPlan(files, data / "tfrecords", 4)
        conversion.convert(plan, conversion.read_plan(plan), 2)
    return data


def conversion(folder: Path) -> Iterator[Row]:
    """Pictures to records."""
    begun = time.perf_counter()
    _shapes(folder)
    yield "generate and convert 220 shapes, 2 workers", 220 / (time.perf_counter() - begun), "images/s", ""


def _take(batches: Iterator[Any], count: int) -> None:
    for _ in range(count):
        next(batches)


def pipeline(folder: Path) -> Iterator[Row]:
    """Records to training batches."""
    from panoptic_cli.datasets.pipeline import training_dataset

    data = folder / "shapes"
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


def network(folder: Path) -> Iterator[Row]:
    """panoptic_fpn_coco without fusion."""
    import tensorflow as tf

    from panoptic_cli.models.panoptic_fpn import PanopticFPN

    model = PanopticFPN(config.load_experiment().task.model, _coco_like())
    forward = tf.function(lambda images, info: model(images, info))
    size = 512
    images = tf.random.stateless_normal([1, size, size, 3], [0, 0])
    info = tf.constant([[[size, size], [size, size], [1, 1], [0, 0]]], tf.float32)
    features = tf.function(lambda x: model.pyramid(x, training=False))
    whole = seconds(lambda: forward(images, info), 3)
    shared = f"of it backbone and FPN {seconds(lambda: features(images), 3):.2f} s"
    yield f"network {size}x{size}, batch 1, float32", whole, "s", shared
    yield "peak memory after it", peak_memory_mb(), "MB", ""


def fusion(folder: Path) -> Iterator[Row]:
    """Fusion of one 640x480 picture, against resizing all class scores."""
    import tensorflow as tf

    from panoptic_cli.models.fusion import fuse, semantic_labels

    space = _coco_like()
    settings = config.load_experiment().task.model.panoptic_segmentation_generator
    generator = np.random.default_rng(0)
    coarse = generator.standard_normal((1, 12, 12, 111)).astype(np.float32) * 4
    logits = tf.image.resize(coarse, [128, 128], method="bicubic")[0]
    corner = generator.uniform(0, 300, (100, 2))
    boxes = tf.constant(np.concatenate([corner, corner + generator.uniform(20, 200, (100, 2))], 1), tf.float32)
    classes = tf.constant(generator.integers(1, 91, 100), tf.int32)
    scores = tf.constant(np.sort(generator.uniform(0.2, 1, 100))[::-1].copy(), tf.float32)
    masks = tf.constant(generator.uniform(0, 1, (100, 28, 28)), tf.float32)
    info = tf.constant([[480, 640], [512, 512], [0.8, 0.8], [0, 0]], tf.float32)
    outputs = {
        "detection_boxes": boxes,
        "detection_classes": classes,
        "detection_scores": scores,
        "detection_masks": masks,
        "semantic_logits": logits,
    }

    @tf.function
    def ours() -> tf.Tensor:
        return fuse(outputs, info, settings, space).category

    sizes = [tf.constant(v) for v in (640, 640, 480, 640)]
    labels = tf.function(lambda: semantic_labels(logits, *sizes))
    dense = tf.function(lambda: tf.argmax(tf.image.resize(logits, [640, 640])[:480], -1, tf.int32))
    agree = float(np.mean(labels().numpy() == dense().numpy()))
    whole, mine, plain = seconds(ours), seconds(labels), seconds(dense)
    things = int(np.sum(scores.numpy() > 0.5))
    yield f"fusion 640x480, {things} things, 111 classes", whole, "s", ""
    yield "of it semantic labels", mine, "s", f"{plain / mine:.1f}x as fast as resize + argmax (equal on {agree:.4%})"


def scoring(folder: Path) -> Iterator[Row]:
    """PQ of one 640x480 picture, against comparing segment by segment."""
    from panoptic_cli.evaluation.panoptic_quality import PanopticQuality, Segment

    generator = np.random.default_rng(0)
    truth = np.kron(generator.integers(0, 30, (12, 16)), np.ones((40, 40), int)).astype(np.int32)
    guess = np.roll(truth, 9, axis=1)
    segments = [Segment(id=int(i), category_id=int(i % 9) + 1) for i in np.unique(truth) if i]
    quality = PanopticQuality(_coco_like().table)

    def plain() -> None:
        for one in segments:
            for other in segments:
                np.count_nonzero((truth == one.id) & (guess == other.id))

    mine = seconds(lambda: quality.add(truth, segments, guess, segments))
    yield (
        "PQ of a 640x480 picture, 29 segments",
        mine * 1000,
        "ms",
        f"{seconds(plain, 1) / mine:.0f}x as fast as pair by pair",
    )


def _proposals(compiled: bool) -> Callable[[], Any]:
    """The proposal step of eight 128 px pictures."""
    import tensorflow as tf

    from panoptic_cli.models.anchors import anchor_boxes
    from panoptic_cli.models.rpn import propose

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
        return propose(scores, offsets, anchors, size, model.roi_generator, True, compiled)

    return functools.partial(step, scores, offsets)


def training(folder: Path) -> Iterator[Row]:
    """The training step of the shapes preset."""
    import tensorflow as tf

    from panoptic_cli.datasets.pipeline import training_dataset
    from panoptic_cli.training.schedules import build_optimizer
    from panoptic_cli.training.step import PanopticTrainingModel

    data = folder / "shapes"
    table = CategoryTable.from_file(data / "tfrecords" / "categories.json")
    experiment = config.load_experiment(
        "panoptic_fpn_shapes", settings=[f"task.train_data.input_path={data}/tfrecords/train-*"]
    )
    space = LabelSpace.create(table)
    batch = next(iter(training_dataset(experiment, space, batch_size=8, seed=0)))
    model = PanopticTrainingModel(experiment, space)
    model.compile(optimizer=build_optimizer(experiment.trainer.optimizer_config, 100, "float32"))
    model.optimizer.build(model.network.trainable_variables)
    yield (
        "training step, shapes preset, batch 8",
        seconds(functools.partial(tf.function(model.train_step), batch)),
        "s",
        "",
    )

    kernel, static = (seconds(_proposals(compiled)) for compiled in (False, True))
    ratio = f"{static / kernel:.0f}x as fast as the suppression that XLA needs"
    yield "proposals of it, from random boxes", kernel * 1000, "ms", ratio
    yield "peak memory", peak_memory_mb(), "MB", ""


ALL: dict[str, Callable[[Path], Iterator[Row]]] = {
    "conversion": conversion,
    "pipeline": pipeline,
    "scoring": scoring,
    "fusion": fusion,
    "training": training,
    "network": network,
}


def main() -> None:
    """Runs the named benchmarks, or all."""
    names = sys.argv[1:] or list(ALL)
    import_tensorflow()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        if "conversion" not in names and {"pipeline", "training"} & set(names):
            _shapes(Path(folder))
        for name in names:
            for what, figure, unit, note in ALL[name](Path(folder)):
                rows.append([name, what, f"{figure:,.3g} {unit}", note])
                console.info(f"{name}: {what}: {figure:,.3g} {unit}  {note}")
    console.result({"rows": rows}, console.table("Benchmarks", ["part", "what", "figure", "beside"], rows, left=4))


if __name__ == "__main__":
    main()
