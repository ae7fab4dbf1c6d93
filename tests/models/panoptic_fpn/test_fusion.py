"""The fusion of things and stuff, compared with dense pasting and resizing."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from geometries import geometry_of

from panoptic_cli.categories import CategoryTable
from panoptic_cli.config.panoptic_fpn import PanopticSegmentationGenerator
from panoptic_cli.models.panoptic_fpn.fusion import fuse, place_things, semantic_labels
from panoptic_cli.models.panoptic_fpn.label_space import LabelSpace

CONFIG = PanopticSegmentationGenerator()
_place = tf.function(place_things, reduce_retracing=True, autograph=False)
_labels = tf.function(semantic_labels, reduce_retracing=True, autograph=False)


def pasted(box: np.ndarray, mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """Returns the mask stretched over the box and -1 outside it, float64 [height, width]."""
    cells = mask.shape[0]
    out = np.full((height, width), -1.0)
    y1, x1, y2, x2 = box.astype(np.float64)

    def source(pixel: int, low: float, high: float) -> tuple[int, int, float]:
        position = min(max((pixel + 0.5 - low) * cells / (high - low) - 0.5, 0.0), cells - 1.0)
        first = math.floor(position)
        return first, min(first + 1, cells - 1), position - first

    for y in range(height):
        if not y1 <= y < y2:
            continue
        top, bottom, wy = source(y, y1, y2)
        for x in range(width):
            if not x1 <= x < x2:
                continue
            left, right, wx = source(x, x1, x2)
            out[y, x] = (1 - wy) * ((1 - wx) * mask[top, left] + wx * mask[top, right])
            out[y, x] += wy * ((1 - wx) * mask[bottom, left] + wx * mask[bottom, right])
    return out


def dense(boxes: np.ndarray, scores: np.ndarray, masks: np.ndarray, height: int, width: int) -> np.ndarray:
    owner = np.zeros((height, width), np.int32)
    for i in np.argsort(-scores, kind="stable"):
        if scores[i] <= CONFIG.score_threshold:
            break
        inside = pasted(boxes[i], masks[i], height, width) > CONFIG.mask_binarize_threshold
        area = inside.sum()
        if area == 0 or not (inside & (owner > 0)).sum() / area < CONFIG.things_overlap_threshold:
            continue
        owner[inside & (owner == 0)] = i + 1
    return owner


def place(boxes: Any, scores: Any, masks: Any, height: int, width: int) -> np.ndarray:
    arguments = [tf.constant(np.asarray(x, np.float32)) for x in (boxes, scores, masks)]
    return _place(*arguments, tf.constant(height), tf.constant(width), CONFIG).numpy()


@pytest.mark.parametrize(("height", "width"), [(60, 90), (1, 90), (90, 1), (30, 700)])
def test_placed_things_equal_dense_pasting(height: int, width: int) -> None:
    rng = np.random.default_rng(height)
    n = 14
    size = np.array([height, width])
    low = rng.uniform(-0.3, 0.9, (n, 2)) * size  # some are partly or entirely outside
    boxes = np.concatenate([low, low + rng.uniform(0.1, 0.8, (n, 2)) * size], axis=-1)
    boxes[3] = [*low[3], low[3, 0], low[3, 1] + 5]  # no height
    boxes[4] = [*low[4], *low[4]]  # a point
    boxes[5] = 0  # padding
    boxes[6] = [-20, -20, -3, -3]  # entirely above and to the left
    boxes[7] = [height + 2, 0, height + 9, width]
    boxes = boxes.astype(np.float32)
    masks = rng.uniform(0.2, 0.95, (n, 8, 8)).astype(np.float32)
    scores = rng.uniform(0.3, 1, n).astype(np.float32)
    scores[[1, 2]] = 0.9  # a tie, which the first one wins
    scores[3:8] = 0.95
    scores[8] = CONFIG.score_threshold  # exactly at the threshold: not placed
    owner = place(boxes, scores, masks, height, width)
    np.testing.assert_array_equal(owner, dense(boxes, scores, masks, height, width))
    assert not np.isin(owner, [5, 6, 7, 8, 9]).any()
    if min(height, width) > 1:
        assert len(np.unique(owner)) >= 3


def test_masks_in_boxes_on_whole_pixels_equal_a_resize() -> None:
    rng = np.random.default_rng(1)
    mask = rng.random((1, 28, 28)).astype(np.float32)
    owner = place([[7, 11, 57, 44]], [0.9], mask, 64, 64)
    resized = tf.image.resize(mask[0][..., None], [50, 33])[..., 0].numpy()
    np.testing.assert_array_equal(owner[7:57, 11:44], resized > 0.5)
    assert owner.sum() == (resized > 0.5).sum()


@pytest.mark.parametrize(("covered", "stays"), [(9, True), (10, False), (11, False)])
def test_overlap_at_the_threshold_drops_a_detection(covered: int, stays: bool) -> None:
    masks = np.ones((2, 4, 4))
    boxes = [[0, 0, 10, covered], [0, 0, 10, 20]]  # the second has 200 pixels
    owner = place(boxes, [0.9, 0.8], masks, 10, 20)
    assert (owner == 1).sum() == 10 * covered
    assert (owner == 2).sum() == (200 - 10 * covered if stays else 0)


def test_the_first_of_equal_scores_wins_and_low_scores_are_not_placed() -> None:
    masks = np.ones((2, 4, 4))
    same = [[0, 0, 8, 8], [0, 0, 8, 8]]
    assert np.unique(place(same, [0.7, 0.7], masks, 8, 8)).tolist() == [1]
    assert np.unique(place(same, [0.6, 0.7], masks, 8, 8)).tolist() == [2]
    assert not place(same, [0.5, 0.1], masks, 8, 8).any()
    assert place(np.zeros((0, 4)), np.zeros(0), np.zeros((0, 4, 4)), 5, 6).tolist() == np.zeros((5, 6)).tolist()


@pytest.mark.parametrize(
    ("cells", "resized", "size"),
    [
        ((16, 16), (64, 64), (48, 64)),
        ((12, 20), (97, 161), (90, 161)),  # factors that are not whole numbers
        ((32, 32), (1030, 1030), (700, 1030)),  # larger than 640
        ((32, 32), (20, 20), (1, 20)),  # shrunk
        ((16, 16), (640, 640), (640, 1)),
    ],
)
def test_semantic_labels_are_the_argmax_of_the_resized_logits(cells: tuple, resized: tuple, size: tuple) -> None:
    rng = np.random.default_rng(0)
    coarse = rng.standard_normal((4, 4, 9)).astype(np.float32)
    # Smooth regions with a little noise, so that some cells agree with their neighbours and some do not.
    logits = tf.image.resize(coarse, cells, method="nearest").numpy()
    logits += 0.2 * rng.standard_normal(logits.shape).astype(np.float32)
    arguments = [tf.constant(x) for x in (*resized, *size)]
    labels = _labels(tf.constant(logits), *arguments).numpy()
    whole = tf.image.resize(logits, resized).numpy()[: size[0], : size[1]]
    assert labels.shape == size
    # Rounding may decide between classes whose values agree to 1e-5; anything else is an error.
    chosen = np.take_along_axis(whole, labels[..., None], axis=-1)[..., 0]
    np.testing.assert_allclose(chosen, whole.max(axis=-1), atol=1e-5)
    assert np.mean(labels == whole.argmax(axis=-1)) > 0.999
    assert len(np.unique(labels)) > 1


def test_equal_logits_give_the_first_class() -> None:
    zero = tf.zeros([8, 8, 5])
    labels = _labels(zero, *[tf.constant(x) for x in (32, 32, 30, 32)])
    assert not np.any(labels)


@pytest.fixture(scope="module")
def label_space() -> LabelSpace:
    table = [
        {"id": 9, "name": "grass", "isthing": 0},
        {"id": 4, "name": "dog", "isthing": 1},
        {"id": 2, "name": "sky", "isthing": 0},
        {"id": 30, "name": "cat", "isthing": 1},
    ]
    return LabelSpace.create(CategoryTable.from_list(table, "the test"))


def run_fuse(label_space: LabelSpace, logits: np.ndarray, threshold: float, count: int = 2) -> Any:
    boxes = np.array([[0, 0, 16, 16], [16, 16, 32, 32]], np.float32)[:count]
    config = PanopticSegmentationGenerator(stuff_area_threshold=threshold)
    geometry = geometry_of([[40, 64], [32, 32], [0.5, 0.5], [0, 0]])  # 40 x 64 halved, padded to 32
    outputs = {
        "detection_boxes": tf.constant(boxes),
        "detection_classes": tf.constant([2, 1][:count], tf.int32),
        "detection_scores": tf.constant([0.9, 0.8][:count]),
        "detection_masks": tf.ones([count, 4, 4]),
        "semantic_logits": tf.constant(logits),
    }
    return fuse(outputs, geometry, config, label_space)


def one_hot_logits(labels: np.ndarray) -> np.ndarray:
    return (10.0 * np.eye(4)[labels]).astype(np.float32)


def test_fusion_of_a_whole_picture(label_space: LabelSpace) -> None:
    cells = np.full((8, 8), 2)  # grass, 8 x 8 pixels a cell
    cells[:, 4:] = 3  # sky
    cells[:, 7] = 1  # "thing" without a detection: void
    maps = run_fuse(label_space, one_hot_logits(cells), 64)
    category, instance = maps.category.numpy(), maps.instance.numpy()
    assert category.shape == instance.shape == maps.semantic.shape == (40, 64)
    # Boxes are in pixels of the input and twice as large in the picture; the second is cut off at row 40.
    np.testing.assert_array_equal(np.argwhere(instance == 1).max(axis=0), [31, 31])
    np.testing.assert_array_equal(np.argwhere(instance == 2).min(axis=0), [32, 32])
    assert (category[instance == 1] == 30).all()
    assert (category[instance == 2] == 4).all()
    stuff = category[instance == 0]
    assert set(stuff.tolist()) == {0, 2, 9}
    # The void column starts half-way between the centres of the last two cells.
    assert (category[:30, 56:] == 0).all()
    assert (category[:30, 40:52] == 2).all()
    np.testing.assert_array_equal(instance[category == 9], 0)


def test_stuff_must_cover_more_than_the_area_threshold(label_space: LabelSpace) -> None:
    cells = np.full((8, 8), 2)
    cells[:, 5:] = 3
    areas = np.bincount(run_fuse(label_space, one_hot_logits(cells), 0).semantic.numpy().ravel())
    sky = int(areas[3])  # counted before the detections are placed: the second one covers a part of it
    kept = run_fuse(label_space, one_hot_logits(cells), sky - 1).category.numpy()
    gone = run_fuse(label_space, one_hot_logits(cells), sky).category.numpy()
    assert (kept == 2).any()
    assert not (gone == 2).any()
    np.testing.assert_array_equal(gone == 0, kept == 2)


def test_class_zero_is_not_a_detection(label_space: LabelSpace) -> None:
    outputs = {
        "detection_boxes": tf.constant([[0.0, 0.0, 16.0, 16.0]]),
        "detection_classes": tf.constant([0], tf.int32),
        "detection_scores": tf.constant([0.99]),
        "detection_masks": tf.ones([1, 4, 4]),
        "semantic_logits": tf.constant(one_hot_logits(np.full((8, 8), 2))),
    }
    maps = fuse(
        outputs,
        geometry_of([[32, 32], [32, 32], [1, 1], [0, 0]]),
        PanopticSegmentationGenerator(stuff_area_threshold=0),
        label_space,
    )
    assert not np.any(maps.instance)
    assert np.unique(maps.category).tolist() == [9]


def fused_plainly(
    outputs: dict[str, np.ndarray], info: np.ndarray, config: PanopticSegmentationGenerator, labels: LabelSpace
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Applies the rules one by one to all pixels and classes; returns the category, instance and semantic maps."""
    (height, width), desired, scale = info[0].astype(int), info[1], info[2]
    logits = outputs["semantic_logits"].astype(np.float64)
    rows, columns = (np.ceil(desired / scale)).astype(int)
    values = np.stack(
        [pasted(np.array([0, 0, rows, columns]), logits[..., c], rows, columns) for c in range(logits.shape[-1])], -1
    )
    semantic = values[:height, :width].argmax(-1)  # cropped to the picture; of equal classes, the first
    owner = np.zeros((height, width), np.int32)
    scores = np.where(outputs["detection_classes"] > 0, outputs["detection_scores"], 0.0)
    for i in np.argsort(-scores, kind="stable"):  # the best first; of equal scores, the first
        if not scores[i] > config.score_threshold:
            continue
        box = outputs["detection_boxes"][i] / np.tile(scale, 2)
        if box[2] <= box[0] or box[3] <= box[1]:
            continue
        inside = pasted(box, outputs["detection_masks"][i], height, width) > config.mask_binarize_threshold
        taken = np.count_nonzero(inside & (owner > 0))
        if inside.any() and taken / np.count_nonzero(inside) < config.things_overlap_threshold:
            owner[inside & (owner == 0)] = i + 1
    category = np.zeros((height, width), np.int32)
    for label in range(2, logits.shape[-1]):  # 0 is void, and 1 any thing, which is void without a detection
        if np.count_nonzero(semantic == label) > config.stuff_area_threshold:
            category[semantic == label] = labels.semantic_ids[label]
    for i in np.unique(owner[owner > 0]):
        category[owner == i] = labels.thing_ids[outputs["detection_classes"][i - 1]]
    return category, owner, semantic


@pytest.mark.parametrize("seed", range(12))
def test_fusion_of_random_pictures_follows_the_rules(label_space: LabelSpace, seed: int) -> None:
    # Whole and half numbers and sizes that are powers of two cause no rounding, so ties are the same in both.
    rng = np.random.default_rng(seed)
    scale = float(rng.choice([0.5, 1.0, 2.0]))
    side = int(32 / scale)
    height, width = (int(rng.integers(1, side + 1)) if seed % 3 else side for _ in range(2))
    n = int(rng.integers(0, 10))
    low = rng.integers(-8, 28, (n, 2))
    size = rng.choice([0, 4, 8, 16, 32], (n, 2), p=[0.1, 0.2, 0.3, 0.2, 0.2])
    outputs = {
        "detection_boxes": np.concatenate([low, low + size], 1).astype(np.float32),
        "detection_classes": rng.integers(0, 3, n).astype(np.int32),
        "detection_scores": rng.choice([0.25, 0.5, 0.75, 1.0], n).astype(np.float32),
        "detection_masks": rng.choice([0.25, 0.5, 0.75, 1.0], (n, 4, 4), p=[0.1, 0.1, 0.4, 0.4]).astype(np.float32),
        "semantic_logits": rng.integers(0, 3, (8, 8, 4)).astype(np.float32),
    }
    area = int(rng.integers(0, max(1, height * width // 3)))
    config = PanopticSegmentationGenerator(stuff_area_threshold=area)
    info = np.array([[height, width], [32, 32], [scale, scale], [0, 0]], np.float32)
    maps = fuse({k: tf.constant(v) for k, v in outputs.items()}, geometry_of(info), config, label_space)
    expected = fused_plainly(outputs, info, config, label_space)
    for name, found, plain in zip(("category", "instance", "semantic"), maps, expected, strict=True):
        np.testing.assert_array_equal(found.numpy(), plain, err_msg=name)
