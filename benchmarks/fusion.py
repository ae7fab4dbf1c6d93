"""Benchmark of what follows the network: the fusion of things and stuff, and the run lengths of the masks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import Row, coco_like, seconds
from panoptic_cli import config

_HEIGHT, _WIDTH = 480, 640
_SCALE = 0.8  # of the picture, in a network input of 512x512
_DETECTIONS = 100


def fusion(folder: Path) -> Iterator[Row]:
    """One 640x480 picture: everything, the semantic labels against resizing all scores, the masks against NumPy."""
    import tensorflow as tf

    from panoptic_cli.models.panoptic_fpn.fusion import finish, semantic_labels
    from panoptic_cli.models.panoptic_fpn.label_space import label_space_of
    from panoptic_cli.models.panoptic_fpn.masks import mask_runs
    from panoptic_cli.pipeline.preprocessing import Geometry

    experiment = config.load_experiment()
    space = label_space_of(experiment, coco_like())
    settings = experiment.task.model.panoptic_segmentation_generator
    outputs = {name: tf.constant(value) for name, value in _random_outputs().items()}
    geometry = Geometry(
        original_size=tf.constant([_HEIGHT, _WIDTH], tf.float32),
        input_size=tf.constant([512, 512], tf.float32),
        scale=tf.fill([2], _SCALE),
        offset=tf.zeros([2]),
    )

    # On the CPU, as in `Predictor.finish`. Without a network, whose memory would count in the benchmarks that follow.
    @tf.function
    def everything() -> Any:
        with tf.device("CPU:0"):
            return finish(outputs, geometry, settings, space)

    things = int(np.sum(outputs["detection_scores"].numpy() > settings.score_threshold))
    what = f"finish 640x480, {things} things above the threshold, 111 classes, {_DETECTIONS} masks"
    yield what, seconds(everything), "s", f"{int(tf.size(everything().category_ids))} segments"

    logits, sizes = outputs["semantic_logits"], [tf.constant(v) for v in (640, 640, _HEIGHT, _WIDTH)]
    labels = tf.function(lambda: semantic_labels(logits, *sizes))
    dense = tf.function(lambda: tf.argmax(tf.image.resize(logits, [640, 640])[:_HEIGHT], -1, tf.int32))
    agree = float(np.mean(labels().numpy() == dense().numpy()))
    ours, plain = seconds(labels), seconds(dense)
    yield "semantic labels alone", ours, "s", f"{plain / ours:.1f}x as fast as resize + argmax (equal on {agree:.4%})"

    masks, boxes = outputs["detection_masks"], outputs["detection_boxes"] / _SCALE
    threshold = settings.mask_binarize_threshold
    encode = tf.function(lambda: mask_runs(masks, boxes, sizes[2], sizes[3], threshold))
    numpy_arguments = masks.numpy(), boxes.numpy(), _HEIGHT, _WIDTH, threshold
    runs = encode()
    split = np.split(runs.values.numpy(), runs.row_splits.numpy()[1:-1])
    agree = np.mean([_pixels(a) == _pixels(b) for a, b in zip(split, _numpy_runs(*numpy_arguments), strict=True)])
    ours, plain = seconds(encode), seconds(lambda: _numpy_runs(*numpy_arguments))
    note = f"{plain / ours:.1f}x as fast as NumPy (equal on {agree:.4%})"
    yield f"run lengths of {_DETECTIONS} masks alone", ours, "s", note


def _random_outputs() -> dict[str, Any]:
    """Returns what the network would return for one picture: overlapping detections, and regions of many classes."""
    import tensorflow as tf

    generator = np.random.default_rng(0)
    coarse = generator.standard_normal((1, 12, 12, 111)).astype(np.float32) * 4
    corner = generator.uniform(0, 300, (_DETECTIONS, 2))
    boxes = np.concatenate([corner, corner + generator.uniform(20, 200, (_DETECTIONS, 2))], 1)
    classes = generator.integers(1, 91, _DETECTIONS)
    scores = np.sort(generator.uniform(0.2, 1, _DETECTIONS))[::-1]
    return {
        "detection_boxes": boxes.astype(np.float32),
        "detection_classes": classes.astype(np.int32),
        "detection_scores": scores.astype(np.float32),
        "detection_masks": generator.uniform(0, 1, (_DETECTIONS, 28, 28)).astype(np.float32),
        "semantic_logits": tf.image.resize(coarse, [128, 128], method="bicubic")[0],
    }


def _numpy_runs(masks: np.ndarray, boxes: np.ndarray, height: int, width: int, threshold: float) -> list[np.ndarray]:
    """Does in NumPy what `mask_runs` does: each mask is pasted with two products of matrices of bilinear weights."""
    found = []
    for mask, (y1, x1, y2, x2) in zip(masks, boxes.tolist(), strict=True):
        top, rows = _weights(y1, y2, len(mask), height)
        left, columns = _weights(x1, x2, len(mask), width)
        inside = rows @ mask.astype(np.float64) @ columns.T > threshold
        strip = np.zeros((len(columns), height), bool)
        strip[:, top : top + len(rows)] = inside.T
        padded = np.concatenate(([False], strip.reshape(-1), [False]))
        turns = np.flatnonzero(padded[1:] != padded[:-1]) + left * height
        counts = np.diff(turns, prepend=0, append=height * width)
        found.append(counts[:-1] if counts.size > 1 and counts[-1] == 0 else counts)
    return found


def _weights(start: float, end: float, cells: int, size: int) -> tuple[int, np.ndarray]:
    """Returns the first pixel of an axis that the mask reaches, and the weights, float64 [pixels, cells]."""
    reach = 0.5 * (end - start) / cells
    first, last = max(0, int(np.floor(start - reach))), min(size, int(np.ceil(end + reach)))
    place = (np.arange(first, last) + 0.5 - start) / (end - start) * cells - 0.5
    return first, np.maximum(0.0, 1.0 - np.abs(place[:, None] - np.arange(cells)))


def _pixels(runs: np.ndarray) -> np.ndarray:
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs)
