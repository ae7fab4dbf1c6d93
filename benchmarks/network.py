"""Benchmark of the network."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.common import Row, coco_like, peak_memory_mb, seconds
from benchmarks.evaluation import make_confident
from panoptic_cli import config


def network(folder: Path) -> Iterator[Row]:
    """panoptic_fpn_coco without fusion, with a hundred detections."""
    import tensorflow as tf

    from panoptic_cli.models.panoptic_fpn.network import PanopticFPN

    model = PanopticFPN(config.load_experiment().task.model, coco_like())
    make_confident(model)
    forward = tf.function(lambda images, info: model(images, info))
    size = 512
    images = tf.random.stateless_normal([1, size, size, 3], [0, 0])
    info = tf.constant([[[size, size], [size, size], [1, 1], [0, 0]]], tf.float32)
    features = tf.function(lambda x: model.pyramid(x, training=False))
    whole = seconds(lambda: forward(images, info), 3)
    found = int(forward(images, info)["num_detections"][0])
    shared = f"{found} detections; backbone and FPN {seconds(lambda: features(images), 3):.2f} s"
    yield f"network {size}x{size}, batch 1, float32", whole, "s", shared
    crops = tf.constant(np.random.default_rng(0).random((1, 1000, 7, 7, 256), np.float32))
    box_head = tf.function(lambda x, winograd: model.detection_head(x, training=False, winograd=winograd))
    fewer = seconds(lambda: box_head(crops, True), 3)
    plain = seconds(lambda: box_head(crops, False), 3)
    yield "of it box head, 1000 proposals", fewer, "s", f"{plain / fewer:.1f}x as fast as plain convolutions"
    yield "peak memory after it", peak_memory_mb(), "MB", ""
