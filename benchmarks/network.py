"""Benchmark of the network."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.common import Row, coco_network, peak_memory_mb, platform, seconds
from benchmarks.evaluation import make_confident
from panoptic_cli import config

_SIZE = 512


def network(folder: Path) -> Iterator[Row]:
    """panoptic_fpn_coco without fusion, with a hundred detections."""
    import tensorflow as tf

    from panoptic_cli.pipeline.preprocessing import Geometry

    model = coco_network(config.load_experiment())
    make_confident(model)
    target = platform()
    forward = tf.function(lambda images, geometry: model(images, geometry, platform=target))
    features = tf.function(lambda images: model.pyramid(images, training=False))
    images = tf.random.stateless_normal([1, _SIZE, _SIZE, 3], [0, 0])
    size = tf.constant([[_SIZE, _SIZE]], tf.float32)
    geometry = Geometry(original_size=size, input_size=size, scale=tf.ones([1, 2]), offset=tf.zeros([1, 2]))
    whole = seconds(lambda: forward(images, geometry), 3)
    found = int(forward(images, geometry)["num_detections"][0])
    shared = f"{found} detections; backbone and FPN {seconds(lambda: features(images), 3):.2f} s"
    yield f"network {_SIZE}x{_SIZE}, batch 1, float32", whole, "s", shared
    crops = tf.constant(np.random.default_rng(0).random((1, 1000, 7, 7, 256), np.float32))
    box_head = tf.function(lambda x, winograd: model.detection_head(x, training=False, winograd=winograd))
    fewer = seconds(lambda: box_head(crops, True), 3)
    plain = seconds(lambda: box_head(crops, False), 3)
    yield "box head alone, 1000 proposals", fewer, "s", f"{plain / fewer:.1f}x as fast as plain convolutions"
    yield "peak memory after it", peak_memory_mb(), "MB", ""
