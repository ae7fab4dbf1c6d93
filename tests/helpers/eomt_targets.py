"""Targets and random points of the golden figures of EoMT's losses, as their README states them."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import tensorflow as tf

from panoptic_cli.models.eomt.losses import Points, SegmentTargets


def uniform(salt: str, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The README's uniform numbers from a name."""
    generator = np.random.Generator(np.random.PCG64(zlib.crc32(f"{salt}:{name}".encode())))
    return generator.random(shape, dtype=np.float32)


def draw(size: int, shape: list[Any]) -> np.ndarray:
    kind, *numbers = shape
    y, x = np.mgrid[:size, :size]
    if kind == "rectangle":
        y0, x0, y1, x1 = numbers
        return (y >= y0) & (y < y1) & (x >= x0) & (x < x1)
    cy, cx, radius = numbers
    return (y - cy) ** 2 + (x - cx) ** 2 <= radius**2


def segment_targets(pictures: list[list[list[Any]]], size: int, most: int) -> SegmentTargets:
    maps = np.zeros((len(pictures), size, size), np.int32)
    classes = np.full((len(pictures), most), -1, np.int32)
    for place, shapes in enumerate(pictures):
        for number, (label, *shape) in enumerate(shapes, start=1):
            maps[place][draw(size, shape)] = number
            classes[place, number - 1] = label
    return SegmentTargets(tf.constant(maps), tf.constant(classes))


def injected(salt: str, prefix: str, counts: list[int], most: int, points: int) -> Points:
    """The README's draws: matched masks are numbered through the batch, picture after picture, queries ascending.

    They are given here by matched mask; `in_order` brings them to the order of the segments.
    """
    total = sum(counts)
    matching = np.concatenate([uniform(salt, f"{prefix}/match/{b}", (1, points, 2)) for b in range(len(counts))])
    candidates = uniform(salt, f"{prefix}/oversampled", (total, 3 * points, 2))
    rest = uniform(salt, f"{prefix}/uniform", (total, points - int(0.75 * points), 2))
    return Points(matching, candidates, rest)


def in_order(points: Points, matched: np.ndarray) -> Points:
    """Brings draws by matched mask to the places of the segments."""
    batch, most = matched.shape
    candidates = np.zeros((batch, most, *points.candidates.shape[1:]), np.float32)
    rest = np.zeros((batch, most, *points.uniform.shape[1:]), np.float32)
    number = 0
    for picture in range(batch):
        for place in np.argsort(np.where(matched[picture] < 0, 1 << 20, matched[picture])):
            if matched[picture, place] >= 0:
                candidates[picture, place] = points.candidates[number]
                rest[picture, place] = points.uniform[number]
                number += 1
    return Points(tf.constant(points.matching), tf.constant(candidates), tf.constant(rest))
