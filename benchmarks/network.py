"""Benchmark of the network."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from benchmarks.common import Row, coco_like, peak_memory_mb, seconds
from panoptic_cli import config


def network(folder: Path) -> Iterator[Row]:
    """panoptic_fpn_coco without fusion."""
    import tensorflow as tf

    from panoptic_cli.models.panoptic_fpn import PanopticFPN

    model = PanopticFPN(config.load_experiment().task.model, coco_like())
    forward = tf.function(lambda images, info: model(images, info))
    size = 512
    images = tf.random.stateless_normal([1, size, size, 3], [0, 0])
    info = tf.constant([[[size, size], [size, size], [1, 1], [0, 0]]], tf.float32)
    features = tf.function(lambda x: model.pyramid(x, training=False))
    whole = seconds(lambda: forward(images, info), 3)
    shared = f"of it backbone and FPN {seconds(lambda: features(images), 3):.2f} s"
    yield f"network {size}x{size}, batch 1, float32", whole, "s", shared
    yield "peak memory after it", peak_memory_mb(), "MB", ""
