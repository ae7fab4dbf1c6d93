"""The processes of `benchmarks.gpu`: python -m benchmarks.gpu_parts PART SIZES [ARGUMENT ...].

Each part measures in a process of its own, because Keras' precision and the memory of a GPU belong to a process. It
prints one JSON list [what, figure, unit, note] for each figure, as soon as it is known. SIZES is JSON, see `Sizes`.
"""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from benchmarks.common import Row, coco_network, peak_memory_mb, seconds
from benchmarks.conversion import source_pictures
from benchmarks.evaluation import make_confident
from benchmarks.gpu import REHEARSAL
from benchmarks.training_step import convolution_speed, operations, random_batch
from panoptic_cli import config, devices, models
from panoptic_cli.categories import read_categories
from panoptic_cli.coco import layout
from panoptic_cli.config import Experiment
from panoptic_cli.evaluation.evaluator import Evaluator
from panoptic_cli.inference.predictor import LoadedModel, Predictor
from panoptic_cli.models.panoptic_fpn.anchors import anchor_boxes
from panoptic_cli.models.panoptic_fpn.detection import detect
from panoptic_cli.models.panoptic_fpn.label_space import label_space_of
from panoptic_cli.models.panoptic_fpn.network import PanopticFPN
from panoptic_cli.models.panoptic_fpn.nms import Suppression
from panoptic_cli.models.panoptic_fpn.rpn import propose
from panoptic_cli.pipeline.batches import training_dataset
from panoptic_cli.pipeline.preprocessing import Geometry
from panoptic_cli.records.conversion import convert_all
from panoptic_cli.records.plans import ConversionPlan
from panoptic_cli.training.schedules import build_optimizer
from panoptic_cli.training.step import TrainingModel

_PROPOSALS, _CLASSES = 1000, 91  # of a detection
_HEIGHT, _WIDTH = 480, 640  # of a picture to predict
# The CPU rounds the overlap of two boxes differently from the GPU, so a pair may lie on either side of the threshold.
_MAY_DIFFER = 1e-3


@dataclass(frozen=True)
class Sizes:
    """What is measured.

    Attributes:
        size: side of the network's input, pixels.
        batch: pictures in a batch.
        rehearsal: whether this is a rehearsal on the CPU, with the small preset and few repetitions.
        data: folder for generated data.
    """

    size: int
    batch: int
    rehearsal: bool
    data: str

    @property
    def repeats(self) -> int:
        """How often each call is timed."""
        return 1 if self.rehearsal else 10

    def experiment(self, precision: str = "float32", *settings: str) -> Experiment:
        """Returns the configuration: panoptic_fpn_coco on one GPU, or the small preset on the CPU."""
        return config.load_experiment(
            "panoptic_fpn_shapes" if self.rehearsal else "panoptic_fpn_coco",
            settings=[
                f"task.model.input_size=[{self.size},{self.size},3]",
                f"task.train_data.global_batch_size={self.batch}",
                f"runtime.mixed_precision_dtype={precision}",
                f"runtime.num_gpus={0 if self.rehearsal else 1}",
                *(REHEARSAL if self.rehearsal else ()),
                *settings,
            ],
        )

    def __str__(self) -> str:
        return f"{self.size} px, batch {self.batch}"


def step(sizes: Sizes, precision: str, compiled: str = "") -> Iterator[Row]:
    """The training step in one precision, with XLA if `compiled` is "xla"."""
    experiment = sizes.experiment(precision)
    _start(experiment)
    model = TrainingModel(coco_network(experiment), experiment, "xla" if compiled else "gpu")
    optimizer = build_optimizer(experiment.trainer.optimizer_config, 100, precision)
    optimizer.build(model.trainable_variables)
    model.compile(optimizer=optimizer, auto_scale_loss=False)
    batch, number = random_batch(experiment), tf.constant(0)
    train = tf.function(model.train_step, jit_compile=bool(compiled))
    updated = model.trainable_variables[-1]  # a bias; the update is the last thing that a step does

    def synchronised() -> float:
        loss = train(batch, number)["total_loss"]
        updated.numpy()
        return float(loss)

    first = seconds(synchronised, 1, warmups=0)
    seconds(synchronised, 1, warmups=0 if sizes.rehearsal else 3)  # the scale of float16 settles
    before = _peak_memory()
    if not sizes.rehearsal:
        tf.config.experimental.reset_memory_stats("GPU:0")
    wall = seconds(synchronised, sizes.repeats, warmups=0)
    head = f"{sizes}, {' '.join([precision, compiled]).strip()}"
    scale = getattr(optimizer, "dynamic_scale", None)
    scaled = f", scale {float(scale.value.numpy()):g}" if scale is not None else ""
    yield f"{head}: a step", wall, "s", f"the first took {first:.1f} s; loss {synchronised():.3g}{scaled}"
    yield f"{head}: training", sizes.batch / wall, "pictures/s", "without the input pipeline"
    yield f"{head}: peak memory", _peak_memory(), "GB", f"of a step; {before:.3g} with the first steps"
    speed = convolution_speed(precision, *((1, 16) if sizes.rehearsal else (32, 64)), repeats=10)
    kind = "TF32 where the card has it" if precision == "float32" else precision
    yield f"{head}: large convolution", speed / 1e12, "TFLOP/s", f"3x3, 256 channels, forward, {kind}"
    if not compiled:  # the profiler does not count inside of what XLA compiles
        count = operations(train, batch, number)
        achieved, note = count / wall, f"{count / 1e12:.3g} TFLOP a step"
        yield f"{head}: speed", achieved / 1e12, "TFLOP/s", f"{achieved / speed:.0%} of the convolution; {note}"


def suppression(sizes: Sizes) -> Iterator[Row]:
    """The forms of suppression: the proposals of a training step, and detections of a trained network."""
    experiment = sizes.experiment()
    _start(experiment)
    forms: tuple[Suppression, ...] = ("matrix", "kernel", "padded")
    yield from _compared(f"proposals, {sizes}", _proposals(sizes, experiment), forms, sizes)
    what = f"detections, batch {sizes.batch}, {_PROPOSALS} proposals, {_CLASSES} classes"
    yield from _compared(what, _detections(sizes, experiment), forms[:2], sizes)


def _compared(
    what: str, function: Callable[[Suppression], tf.Tensor], forms: tuple[Suppression, ...], sizes: Sizes
) -> Iterator[Row]:
    """Times a function that returns boxes with their scores, [batch, n, k], in each form, and compares the results."""
    compute, first = tf.function(function), list[set[bytes]]()

    def synchronised(form: Suppression) -> Any:
        return tf.reduce_sum(compute(form)).numpy()

    for form in forms:
        wall = seconds(functools.partial(synchronised, form), sizes.repeats, warmups=2)
        found = [{row.tobytes() for row in picture if row[0] > 0.0} for picture in compute(form).numpy()]
        first = first or found
        different = sum(len(one - other) for one, other in zip(found, first, strict=True))
        count = sum(map(len, first))
        assert different <= _MAY_DIFFER * count, f"{form}: {different} of {count} boxes are not those of {forms[0]}"
        note = f"{count} boxes" if form == forms[0] else f"{different} boxes differ from those of {forms[0]}"
        yield f"{what}: {form}", wall * 1000, "ms", note


def _proposals(sizes: Sizes, experiment: Experiment) -> Callable[[Suppression], tf.Tensor]:
    """Returns the proposal step of a training batch, from random outputs of the head."""
    model, batch = experiment.task.model, sizes.batch
    anchors = anchor_boxes(model.anchor, (sizes.size, sizes.size), model.min_level, model.max_level)
    shapes = {level: boxes.shape[:3] for level, boxes in anchors.items()}
    scores = {level: tf.random.stateless_normal([batch, *shape], [0, level]) for level, shape in shapes.items()}
    offsets = {
        level: 0.3 * tf.random.stateless_normal([batch, h, w, 4 * a], [1, level]) for level, (h, w, a) in shapes.items()
    }
    size = tf.fill([batch, 2], float(sizes.size))

    def compute(form: Suppression) -> tf.Tensor:
        boxes, kept = propose(scores, offsets, anchors, size, model.roi_generator, training=True, suppression=form)
        return tf.concat([kept[..., None], boxes], axis=-1)

    return compute


def _detections(sizes: Sizes, experiment: Experiment) -> Callable[[Suppression], tf.Tensor]:
    """Returns the detections of a batch: ten proposals around each of a hundred objects, and one likely class each."""
    generator, side = np.random.default_rng(0), sizes.size
    shape = (sizes.batch, _PROPOSALS // 10, 2)
    corner = generator.uniform(0, 0.8 * side, shape)
    objects = np.concatenate([corner, corner + generator.uniform(side / 32, side / 4, shape)], -1)
    near = generator.normal(0, side / 200, (sizes.batch, _PROPOSALS, 4))
    proposals = tf.constant(np.clip(np.repeat(objects, 10, axis=1) + near, 0, side), tf.float32)
    likely = np.repeat(generator.integers(1, _CLASSES, shape[:2]), 10, axis=1)
    peaks = 8.0 * np.eye(_CLASSES)[likely]
    logits = tf.constant(peaks + generator.standard_normal(peaks.shape), tf.float32)
    offsets = tf.constant(generator.normal(0, 0.3, (*peaks.shape, 4)), tf.float32)
    size = tf.fill([sizes.batch, 2], float(side))
    generator_config = experiment.task.model.detection_generator

    def compute(form: Suppression) -> tf.Tensor:
        found = detect(logits, offsets, proposals, size, generator_config, form)
        scores, classes = found["detection_scores"][..., None], found["detection_classes"][..., None]
        return tf.concat([scores, tf.cast(classes, tf.float32), found["detection_boxes"]], axis=-1)

    return compute


def pipeline(sizes: Sizes) -> Iterator[Row]:
    """The input pipeline of the training, alone."""
    records, kind = picture_records(Path(sizes.data))
    experiment = _for_records(sizes, f"task.train_data.input_path={records}/train-*")
    targets = models.training_targets(experiment, read_categories(records / "categories.json"))
    batches = iter(training_dataset(experiment, targets, batch_size=sizes.batch, seed=0))
    count = 2 if sizes.rehearsal else 20

    def some() -> None:
        for _ in range(count):
            next(batches)

    wall = seconds(some, min(3, sizes.repeats))
    yield f"{sizes}: input pipeline, {kind}", count * sizes.batch / wall, "pictures/s", f"{os.cpu_count()} CPU cores"


def inference(sizes: Sizes, precision: str) -> Iterator[Row]:
    """The network alone, with its outputs on the host, and from pictures to predictions."""
    model = _confident_model(sizes, precision)
    predictor, network, platform = Predictor(model), model.network, model.platform

    @tf.function
    def forward(images: tf.Tensor, geometry: Geometry) -> tf.Tensor:
        outputs = network(images, geometry, platform=platform)
        return tf.add_n([tf.reduce_sum(tf.cast(x, tf.float32)) for x in outputs.values()])

    def alone(images: tf.Tensor, geometry: Geometry) -> float:
        return float(forward(images, geometry))

    def whole(pictures: list[np.ndarray]) -> None:
        for _ in predictor.predict_batch(pictures):
            pass

    pixels = np.random.default_rng(0).integers(0, 255, (_HEIGHT, _WIDTH, 3), np.uint8)
    image, place = predictor.preprocessing.prepare(tf.constant(pixels))
    for batch in sorted({1, sizes.batch}):
        prepared = tf.stack([image] * batch), Geometry(*(tf.stack([part] * batch) for part in place))
        head, repeats = f"{sizes.size} px, batch {batch}, {precision}", sizes.repeats
        wall = seconds(functools.partial(alone, *prepared), repeats, warmups=2)
        yield f"{head}: network alone", batch / wall, "pictures/s", f"{wall * 1000:.3g} ms a batch"
        wall = seconds(functools.partial(predictor.run, *prepared), repeats, warmups=2)
        found = int(predictor.run(*prepared)[0]["num_detections"])
        note = f"{wall * 1000:.3g} ms a batch; {found} detections a picture"
        yield f"{head}: with its outputs copied to the host", batch / wall, "pictures/s", note
        wall = seconds(functools.partial(whole, [pixels] * batch), min(3, repeats))
        note = f"{_WIDTH}x{_HEIGHT}, one after the other, fusion in one thread"
        yield f"{head}: from pixels to predictions", batch / wall, "pictures/s", note


def evaluation(sizes: Sizes, precision: str) -> Iterator[Row]:
    """An evaluation, where network, fusion and scoring overlap."""
    records, kind = picture_records(Path(sizes.data))
    model = _confident_model(sizes, precision)
    limit = 4 * sizes.batch if sizes.rehearsal else None
    evaluator = Evaluator(model, f"{records}/train-*", batch_size=sizes.batch, limit=limit)
    for _ in range(1 if sizes.rehearsal else 2):  # the first one traces
        result = evaluator.evaluate()
    note = f"{result.images} of {kind}, up to a hundred detections each; {os.cpu_count()} CPU cores"
    yield f"{sizes}, {precision}: evaluation", result.images_per_second, "pictures/s", note


def picture_records(folder: Path) -> tuple[Path, str]:
    """Makes records of COCO's or generated pictures, unless they exist; returns their folder and what they show."""
    source, kind = source_pictures(folder)
    records = folder / "picture_records"
    if not (records / "train.manifest.json").exists():
        convert_all([ConversionPlan(layout.coco_files(source, "train"), records, 4)], 2)
    return records, kind


def _for_records(sizes: Sizes, *settings: str, precision: str = "float32") -> Experiment:
    """Returns a configuration that fits any categories, with heads of COCO's sizes."""
    return sizes.experiment(precision, "task.model.stuff_classes_offset=null", *settings)


def _confident_model(sizes: Sizes, precision: str) -> LoadedModel:
    """Returns an untrained network for the picture records that finds a hundred detections in each picture."""
    records, _ = picture_records(Path(sizes.data))
    table = read_categories(records / "categories.json")
    experiment = _for_records(sizes, precision=precision)
    strategy = _start(experiment)
    with strategy.scope():
        network = PanopticFPN(experiment.task, label_space_of(experiment, table))
    make_confident(network)
    return LoadedModel(experiment, table, network, "untrained", None, strategy=strategy)


def _start(experiment: Experiment) -> tf.distribute.Strategy:
    """Sets devices, memory growth and precision of this process."""
    keras.utils.set_random_seed(0)
    strategy = devices.create_strategy(experiment.runtime)
    devices.set_precision(experiment.runtime)
    return strategy


def _peak_memory() -> float:
    """Returns the peak memory of the GPU, or of the process if it computes on the CPU, in GB."""
    if tf.config.get_visible_devices("GPU"):
        return float(tf.config.experimental.get_memory_info("GPU:0")["peak"]) / 1e9
    return peak_memory_mb() * 2**20 / 1e9


PARTS: dict[str, Callable[..., Iterator[Row]]] = {
    "step": step,
    "suppression": suppression,
    "pipeline": pipeline,
    "inference": inference,
    "evaluation": evaluation,
}


if __name__ == "__main__":
    for row in PARTS[sys.argv[1]](Sizes(**json.loads(sys.argv[2])), *sys.argv[3:]):
        print(json.dumps(row), flush=True)
