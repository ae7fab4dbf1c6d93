"""Masks pasted at the picture's size, and the segments and detections that `finish` returns."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from geometries import geometry_of
from paste_oracle import paste_runs

from panoptic_cli.categories import ANY_THING, CategoryTable
from panoptic_cli.config.panoptic_fpn import PanopticSegmentationGenerator
from panoptic_cli.models.panoptic_fpn.fusion import finish, fuse
from panoptic_cli.models.panoptic_fpn.label_space import LabelSpace
from panoptic_cli.models.panoptic_fpn.masks import mask_runs

_runs = tf.function(mask_runs, reduce_retracing=True, autograph=False)


def runs(masks: np.ndarray, boxes: np.ndarray, height: int, width: int) -> list[np.ndarray]:
    inputs = [tf.constant(x, tf.float32) for x in (masks, boxes)]
    return [row.numpy() for row in _runs(*inputs, tf.constant(height), tf.constant(width), 0.5)]


def painted(counts: np.ndarray, height: int, width: int) -> np.ndarray:
    """Decodes run lengths to bool [height, width]."""
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(width, height).T


@pytest.mark.parametrize(("height", "width"), [(60, 90), (1, 90), (90, 1), (30, 700)])
def test_pasted_masks_equal_those_of_the_oracle(height: int, width: int) -> None:
    rng = np.random.default_rng(height)
    n, cells = 40, 28
    size = np.array([height, width])
    low = rng.uniform(-0.3, 0.9, (n, 2)) * size  # some are partly or entirely outside
    boxes = np.concatenate([low, low + rng.uniform(0.02, 0.8, (n, 2)) * size], axis=-1).astype(np.float32)
    boxes[0] = [0, 0, height, width]
    boxes[1] = [-5, -5, height + 5, width + 5]
    boxes[2] = [-30, -30, -10, -10]
    coarse = rng.uniform(0, 1, (n, 7, 7))
    masks = np.repeat(np.repeat(coarse, cells // 7, 1), cells // 7, 2).astype(np.float32)
    masks[0] = masks[1] = 1
    found, expected = runs(masks, boxes, height, width), paste_runs(masks, boxes, height, width)
    assert len(found) == n
    differing = 0
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.sum() == height * width
        assert (ours[1:] > 0).all()  # only the first run may be empty
        differing += int((painted(ours, height, width) != painted(theirs, height, width)).sum())
    # float32 and float64 may decide differently for a pixel whose value is the threshold.
    assert differing <= 3
    assert painted(found[1], height, width).all()  # the one that extends beyond the picture
    assert found[2].tolist() == [height * width]


@pytest.mark.parametrize("box", [[3, 3, 3, 9], [5, 5, 2, 9], [np.nan, 0, 5, 5], [0, 0, np.inf, 5]])
def test_a_box_without_area_gives_an_empty_mask(box: list[float]) -> None:
    found = runs(np.ones((2, 4, 4)), np.array([box, [0, 0, 2, 2]]), 6, 7)
    assert found[0].tolist() == [42]
    assert found[1].tolist() == [0, 2, 4, 2, 34]


def test_an_empty_list_of_masks_gives_no_runs() -> None:
    assert runs(np.zeros((0, 4, 4)), np.zeros((0, 4)), 6, 7) == []


TABLE = CategoryTable.from_list(
    [
        {"id": 95, "name": "sky", "isthing": 0},
        {"id": 3, "name": "car", "isthing": 1},
        {"id": 93, "name": "grass", "isthing": 0},
        {"id": 1, "name": "person", "isthing": 1},
    ],
    "the test",
)


def random_outputs(rng: np.random.Generator, classes: int) -> dict[str, Any]:
    n = 12
    low = rng.uniform(0, 40, (n, 2))
    labels = rng.integers(1, 4, n).astype(np.int32)  # class 2 has no category
    labels[9:] = 0  # padding
    return {
        "detection_boxes": np.concatenate([low, low + rng.uniform(4, 24, (n, 2))], 1).astype(np.float32),
        "detection_classes": labels,
        "detection_scores": np.where(labels > 0, np.linspace(0.95, 0.3, n), 0).astype(np.float32),
        "detection_masks": rng.uniform(0.3, 1, (n, 8, 8)).astype(np.float32),
        "semantic_logits": rng.standard_normal((16, 16, classes)).astype(np.float32),
        "num_detections": np.int32(9),
    }


@pytest.mark.parametrize("isthing", [0, 1])
def test_tables_of_stuff_or_things_alone(isthing: int) -> None:
    entries = [{"id": i, "name": str(i), "isthing": isthing} for i in (1, 3)]
    space = LabelSpace.create(CategoryTable.from_list(entries, "the test"))
    outputs = {k: tf.constant(v) for k, v in random_outputs(np.random.default_rng(1), 2 + 2 * (1 - isthing)).items()}
    outputs["detection_classes"] = tf.minimum(outputs["detection_classes"], 2 * isthing)  # the table's, or none
    geometry = geometry_of([[50, 64], [64, 64], [1, 1], [0, 0]])
    found = finish(outputs, geometry, PanopticSegmentationGenerator(stuff_area_threshold=0), space)
    assert set(found.category_ids.numpy().tolist()) == {1, 3}
    assert (found.detection_of_segment.numpy() > 0).all() == bool(isthing)
    assert (len(found.scores) > 0) == bool(isthing)
    np.testing.assert_array_equal(found.areas, np.bincount(found.segment_map.numpy().ravel())[1:])


@pytest.mark.parametrize("seed", range(4))
def test_classes_without_a_category_are_void_everywhere(seed: int) -> None:
    space = LabelSpace.create(TABLE, 90, 5, 8)  # as for COCO, with classes between the ids of the categories
    outputs = {k: tf.constant(v) for k, v in random_outputs(np.random.default_rng(seed), 8).items()}
    geometry = geometry_of([[50, 64], [64, 64], [1, 1], [0, 0]])
    config = PanopticSegmentationGenerator(stuff_area_threshold=0)
    maps, found = fuse(outputs, geometry, config, space), finish(outputs, geometry, config, space)
    ids = [*found.category_ids.numpy().tolist(), *found.detection_category_ids.numpy().tolist()]
    assert set(ids) <= {1, 3, 93, 95}
    assert found.semantic_map is not None
    assert set(np.unique(found.semantic_map)) == {ANY_THING, 0, 93, 95}
    labels = outputs["detection_classes"].numpy()
    assert len(found.scores) == ((labels == 1) | (labels == 3)).sum() < 9
    assert (np.diff(found.scores) <= 0).all()
    assert found.masks.shape[0] == len(found.scores) == len(found.boxes)

    # The segments, painted again, give the maps of the fusion.
    category = np.concatenate([[0], found.category_ids])[found.segment_map]
    np.testing.assert_array_equal(category, maps.category)
    place = np.concatenate([[0], found.detection_of_segment])[found.segment_map]
    np.testing.assert_array_equal(place > 0, maps.instance.numpy() > 0)
    known = np.flatnonzero((labels == 1) | (labels == 3))
    np.testing.assert_array_equal(known[place[place > 0] - 1] + 1, maps.instance.numpy()[place > 0])

    # Segments are ordered by category and detection, each has pixels, and a thing is within its mask.
    keys = list(zip(found.category_ids.numpy().tolist(), found.detection_of_segment.numpy().tolist(), strict=True))
    assert keys == sorted(set(keys))
    np.testing.assert_array_equal(found.areas, np.bincount(found.segment_map.numpy().ravel())[1:])
    assert found.areas.numpy().min() > 0
    for number, (category_id, detection) in enumerate(keys, start=1):
        if detection:
            assert found.detection_category_ids[detection - 1] == category_id
            inside = found.segment_map.numpy() == number
            mask = painted(found.masks[detection - 1].numpy(), 50, 64)
            # The two rules differ within a cell of the box's border, where the mask fades to zero.
            assert (mask & inside).sum() > 0.7 * inside.sum()


def test_a_higher_threshold_leaves_fewer_things() -> None:
    space = LabelSpace.create(TABLE, 90, 5, 8)
    outputs = {k: tf.constant(v) for k, v in random_outputs(np.random.default_rng(0), 8).items()}
    geometry = geometry_of([[50, 64], [64, 64], [1, 1], [0, 0]])
    config = PanopticSegmentationGenerator(stuff_area_threshold=0)
    configured = config.model_copy(update={"score_threshold": 0.8})
    lower, given = (
        finish(outputs, geometry, config, space),
        finish(outputs, geometry, config, space, tf.constant(0.8)),
    )
    expected = finish(outputs, geometry, configured, space)
    assert (given.detection_of_segment.numpy() > 0).sum() < (lower.detection_of_segment.numpy() > 0).sum()
    np.testing.assert_array_equal(given.segment_map, expected.segment_map)
    np.testing.assert_array_equal(given.scores, lower.scores)  # detections are listed at any threshold
