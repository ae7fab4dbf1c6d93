"""EoMT's fusion and detections against the authors' figures, and against the rules applied one by one in NumPy."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import tensorflow as tf
from pycocotools import mask as mask_utils

from panoptic_cli.models.eomt.fusion import FusedQueries, Fusion, Thresholds, fuse
from panoptic_cli.models.segments import Segments
from panoptic_cli.pipeline.preprocessing import Geometry, Preprocessing, geometry_spec
from panoptic_cli.results.detection_entries import compress_masks

INPUT, CELLS, THINGS, CLASSES = 64, 16, 4, 7
IS_THING = np.arange(CLASSES) < THINGS
CATEGORY_IDS = [11, 3, 90, 5, 70, 2, 60]  # of each class, in no order
SIZES = [(48, 64), (100, 75), (31, 200), (64, 64), (1, 90), (150, 150)]


def geometry_of(size: tuple[int, int], side: int = INPUT) -> Geometry:
    return Preprocessing((side, side), antialias=True).plan(tf.constant(size)).geometry


class Outputs(NamedTuple):
    """Made-up outputs of the network."""

    class_logits: np.ndarray
    mask_logits: np.ndarray


def random_outputs(seed: int, queries: int = 24, certain: float = 0.7) -> Outputs:
    """Returns regions that overlap a little, some of two queries; a share of the queries is certain of a class."""
    rng = np.random.default_rng(seed)
    fields = tf.image.resize(rng.standard_normal((5, 5, queries)) * 6, [CELLS, CELLS], method="bicubic").numpy()
    best = np.sort(fields, axis=-1)[..., -1:]
    masks = (fields - best + rng.uniform(0.5, 4.0, queries)).transpose(2, 0, 1)
    twins = rng.choice(queries, (queries // 8, 2), replace=False)
    masks[twins[:, 0]] = masks[twins[:, 1]] + rng.normal(0, 0.5, (len(twins), CELLS, CELLS))
    logits = rng.standard_normal((queries, CLASSES + 1))
    for query in np.flatnonzero(rng.random(queries) < certain):
        logits[query, rng.integers(0, CLASSES + 1)] += 7
    return Outputs(logits.astype(np.float32), np.ascontiguousarray(masks, np.float32))


def axis_weights(cells: int, length: int, scaled: int, side: int) -> np.ndarray:
    """Returns the weights of both resizes along an axis, float64 [length, cells]."""

    def bilinear(count: int, total: int, kept: int) -> np.ndarray:
        place = np.clip((np.arange(kept) + 0.5) * count / total - 0.5, 0, count - 1)
        return np.maximum(0.0, 1.0 - np.abs(place[:, None] - np.arange(count)))

    return bilinear(scaled, length, length) @ bilinear(cells, side, scaled)


def whole_masks(masks: np.ndarray, size: tuple[int, int], side: int = INPUT) -> np.ndarray:
    """Resizes all masks to the picture, float64 [queries, height, width]."""
    factor = min(side / size[0], side / size[1])
    rows, columns = (
        axis_weights(masks.shape[1 + axis], size[axis], max(1, round(size[axis] * factor)), side) for axis in range(2)
    )
    return np.einsum("yi,qij,xj->qyx", rows, masks.astype(np.float64), columns, optimize=True)


def softmax(logits: np.ndarray) -> np.ndarray:
    exponents = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    return exponents / exponents.sum(-1, keepdims=True)


def fused_plainly(outputs: Outputs, size: tuple[int, int], score_threshold: float = 0.8) -> np.ndarray:
    """Applies the rules one by one to all queries and pixels: the query that owns each pixel, -1 for void."""
    probabilities = softmax(outputs.class_logits)
    classes, scores = probabilities.argmax(-1), probabilities.max(-1)
    placed = [q for q in range(len(scores)) if classes[q] < CLASSES and scores[q] > score_threshold]
    owner = np.full(size, -1)
    if not placed:
        return owner
    masks = 1 / (1 + np.exp(-whole_masks(outputs.mask_logits[placed], size)))
    winner = (scores[placed][:, None, None] * masks).argmax(0)
    first_of_stuff: dict[int, int] = {}
    for place, query in enumerate(placed):
        inside, won = masks[place] >= 0.5, winner == place
        final = inside & won
        if not inside.any() or not final.any() or won.sum() / inside.sum() < 0.8:
            continue
        segment = query if IS_THING[classes[query]] else first_of_stuff.setdefault(int(classes[query]), query)
        owner[final] = segment
    return owner


# One graph for all sizes: in eager mode, every part of a picture takes many calls.
_SIGNATURE = (
    tf.TensorSpec([None, CLASSES + 1], tf.float32),
    tf.TensorSpec([None, None, None], tf.float32),
    geometry_spec(),
    tf.TensorSpec([], tf.float32),
)


@cache
def graph_of(**options: Any) -> Any:
    def of_picture(logits: tf.Tensor, masks: tf.Tensor, geometry: Geometry, threshold: tf.Tensor) -> FusedQueries:
        return fuse(logits, masks, geometry, tf.constant(IS_THING), Thresholds(), threshold, **options)

    return tf.function(of_picture, input_signature=_SIGNATURE, autograph=False)


@cache
def finishing(most: int = 40, is_thing: tuple[bool, ...] = tuple(IS_THING.tolist())) -> Any:
    fusion = Fusion(CATEGORY_IDS, is_thing, num_detections=most)
    return tf.function(fusion.__call__, input_signature=_SIGNATURE, autograph=False)


def run(outputs: Outputs, size: tuple[int, int], threshold: float = 0.8, **options: Any) -> FusedQueries:
    return graph_of(**options)(*(tf.constant(x) for x in outputs), geometry_of(size), tf.constant(threshold))


def finish(outputs: Outputs, size: tuple[int, int], threshold: float = 0.8, most: int = 40) -> Segments:
    return finishing(most)(*(tf.constant(x) for x in outputs), geometry_of(size), tf.constant(threshold))


@pytest.mark.shared
@pytest.mark.parametrize("compiled", [False, True])
def test_maps_of_the_authors(shared: Path, compiled: bool) -> None:
    folder = shared / "conformance" / "eomt"
    arrays, facts = np.load(folder / "postprocess.npz"), json.loads((folder / "postprocess.json").read_text())
    is_thing = tf.constant(np.arange(facts["num_classes"]) < facts["stuff_first"])
    names = ("score_threshold", "mask_threshold", "overlap_threshold")
    thresholds = Thresholds(*(facts[name] for name in names))

    def of_picture(logits: tf.Tensor, masks: tf.Tensor, geometry: Geometry) -> FusedQueries:
        return fuse(logits, masks, geometry, is_thing, thresholds)

    function = tf.function(of_picture, reduce_retracing=True, autograph=False) if compiled else of_picture
    for figure in facts["figures"]:
        key = figure["key"]
        edge, place = key.startswith("edge"), int(key.lstrip("pedg"))
        prefix, side = ("edge_", facts["edge_size"]) if edge else ("", facts["input_size"])
        logits, masks = (arrays[f"{prefix}{kind}_logits"][place].astype(np.float32) for kind in ("class", "mask"))
        found = function(logits, masks, geometry_of(figure["picture"], side))
        owner = found.owner.numpy()
        # Segments get their ids in the order of the queries.
        segment = np.where(owner < 0, -1, np.searchsorted(np.unique(owner[owner >= 0]), owner))
        np.testing.assert_array_equal(segment, arrays[f"{key}_segment"], err_msg=key)
        category = np.where(owner < 0, facts["num_classes"], found.classes.numpy()[owner])
        np.testing.assert_array_equal(category, arrays[f"{key}_category"], err_msg=key)


@pytest.mark.parametrize("size", SIZES)
def test_fusion_follows_the_rules(size: tuple[int, int]) -> None:
    segments = 0
    for seed in range(4):
        outputs = random_outputs(seed)
        expected = fused_plainly(outputs, size)
        np.testing.assert_array_equal(run(outputs, size).owner, expected)
        segments += len(np.unique(expected)) - 1
    assert segments >= 4 or min(size) == 1


def test_parts_of_any_size_give_the_same_map() -> None:
    outputs = random_outputs(5, queries=60, certain=1.0)
    expected = run(outputs, (90, 130)).owner.numpy()
    assert len(np.unique(expected)) > 3
    for tile in ((7, 33), (200, 400)):
        np.testing.assert_array_equal(run(outputs, (90, 130), tile=tile).owner, expected)


@pytest.mark.parametrize("size", [(48, 64), (61, 53)])
def test_the_first_of_equal_queries_wins_everywhere(size: tuple[int, int]) -> None:
    outputs = random_outputs(1, queries=5)
    masks = np.repeat(outputs.mask_logits[:1], 5, axis=0)
    logits = np.zeros((5, CLASSES + 1), np.float32)
    logits[:, 2] = 9  # things
    owner = run(Outputs(logits, masks), size).owner.numpy()
    inside = whole_masks(masks[:1], size)[0] >= 0
    np.testing.assert_array_equal(owner, np.where(inside, 0, -1))
    logits[1:] = np.roll(logits[1:], 3, axis=1)  # stuff with the same score
    np.testing.assert_array_equal(run(Outputs(logits, masks), size).owner, owner)


def test_two_queries_of_a_stuff_class_are_one_segment_and_things_are_not() -> None:
    masks = np.full((2, CELLS, CELLS), -8.0, np.float32)
    masks[0, :, : CELLS // 2] = masks[1, :, CELLS // 2 :] = 8
    for number, segments in ((5, 1), (1, 2)):
        logits = np.zeros((2, CLASSES + 1), np.float32)
        logits[:, number] = 9
        found = finish(Outputs(logits, masks), (64, 64))
        assert found.category_ids.numpy().tolist() == [CATEGORY_IDS[number]] * segments
        assert int(np.sum(found.areas)) == 64 * 64
        assert int(np.sum(found.scores.numpy() > 0.5)) == 2 * int(IS_THING[number])  # no stuff is detected


@pytest.mark.parametrize("threshold", [0.8, 1.0])
def test_nothing_kept_is_all_void(threshold: float) -> None:
    outputs = random_outputs(0)
    if threshold < 1.0:
        outputs.class_logits[:, -1] = 30  # no object
    found = finish(outputs, (40, 50), threshold)
    assert found.segment_map.shape == (40, 50)
    assert not np.any(found.segment_map)
    assert found.category_ids.shape == found.areas.shape == found.detection_of_segment.shape == (0,)


def test_masks_without_a_pixel_and_masks_everywhere() -> None:
    outputs = random_outputs(3)
    outputs.mask_logits[:] = -4.0
    nothing = finish(outputs, (33, 47))
    assert not np.any(nothing.segment_map)
    assert nothing.masks.shape[0] == len(nothing.scores) == 0
    outputs.mask_logits[:] = 4.0
    found = finish(outputs, (33, 47))
    assert {tuple(row) for row in found.masks.to_list()} == {(0, 33 * 47)}
    np.testing.assert_array_equal(found.boxes, [[0, 0, 33, 47]] * len(found.scores))


@pytest.mark.parametrize("isthing", [False, True])
def test_tables_of_stuff_or_things_alone(isthing: bool) -> None:
    inputs = (tf.constant(x) for x in random_outputs(2))
    found = finishing(is_thing=(isthing,) * CLASSES)(*inputs, geometry_of((48, 64)), tf.constant(0.8))
    assert len(found.category_ids) > 0
    assert (found.detection_of_segment.numpy() > 0).all() == isthing
    assert (len(found.scores) > 0) == isthing


def painted(counts: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Decodes run lengths to bool [height, width] with COCO's own functions."""
    return mask_utils.decode(compress_masks([counts], size)[0]).astype(bool)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("seed", [0, 1])
def test_detections_follow_the_rules(size: tuple[int, int], seed: int) -> None:
    outputs = random_outputs(seed)
    found = finish(outputs, size)
    probabilities = softmax(outputs.class_logits)[:, :THINGS]
    order = np.argsort(-probabilities.ravel(), kind="stable")[:40]
    masks = whole_masks(outputs.mask_logits, size)
    expected = []
    for query, number in zip(order // THINGS, order % THINGS, strict=True):
        inside = masks[query] > 0
        if not inside.any():
            continue
        quality = (1 / (1 + np.exp(-masks[query])))[inside].mean()
        expected.append((probabilities[query, number] * quality, CATEGORY_IDS[number], inside))
    expected.sort(key=lambda item: -item[0])
    assert len(found.scores) == len(expected) > 0
    # Scores of float32; those of two detections would have to agree to 1e-6 to change their order.
    np.testing.assert_allclose(found.scores, [score for score, _, _ in expected], rtol=1e-5)
    assert found.detection_category_ids.numpy().tolist() == [category for _, category, _ in expected]
    boxes, runs = found.boxes.numpy().tolist(), found.masks.numpy()
    for (_, _, inside), counts, box in zip(expected, runs, boxes, strict=True):
        np.testing.assert_array_equal(painted(counts, size), inside)
        assert (counts[1:] > 0).all()
        x, y, width, height = mask_utils.toBbox(compress_masks([counts], size)[0]).tolist()
        assert box == [y, x, y + height, x + width]


@pytest.mark.parametrize("seed", range(3))
def test_every_thing_in_the_map_has_its_detection(seed: int) -> None:
    outputs, size = random_outputs(seed, certain=1.0), (60, 80)
    for most, threshold in ((40, 0.8), (2, 0.5)):  # in the second, there are more things than detections
        found, owner = finish(outputs, size, threshold, most), run(outputs, size, threshold).owner.numpy()
        np.testing.assert_array_equal(found.segment_map.numpy() > 0, owner >= 0)
        assert (np.diff(found.scores) <= 0).all()
        of_segment, ids = found.detection_of_segment.numpy(), found.category_ids.numpy()
        things = [CATEGORY_IDS[number] for number in range(THINGS)]
        np.testing.assert_array_equal(of_segment > 0, np.isin(ids, things))
        keys = list(zip(ids.tolist(), of_segment.tolist(), strict=True))
        assert keys == sorted(set(keys))
        segments, categories = found.segment_map.numpy(), found.detection_category_ids.numpy()
        areas, masks = found.areas.numpy(), found.masks.numpy()
        for number, (category, detection) in enumerate(keys, start=1):
            inside = segments == number
            assert areas[number - 1] == inside.sum() > 0
            if detection:
                assert categories[detection - 1] == category
                assert painted(masks[detection - 1], size)[inside].all()
        count = int((of_segment > 0).sum())
        assert count > 2
        assert len(found.scores) <= max(most, count)


def test_eager_graph_and_batch_agree() -> None:
    pictures = [random_outputs(seed) for seed in range(3)]
    size = (45, 70)
    graph = finishing()

    @tf.function(autograph=False)
    def batch(logits: tf.Tensor, masks: tf.Tensor) -> tf.Tensor:
        def one(item: tuple[tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, tf.RaggedTensor]:
            found = graph(*item, geometry_of(size), tf.constant(0.8))
            return found.segment_map, found.masks

        spec = (tf.TensorSpec([None, None], tf.int32), tf.RaggedTensorSpec([None, None], tf.int32, ragged_rank=1))
        return tf.map_fn(one, (logits, masks), fn_output_signature=spec)

    maps, masks = batch(*(tf.stack([picture[kind] for picture in pictures]) for kind in range(2)))
    for place, picture in enumerate(pictures):
        found = finish(picture, size)
        np.testing.assert_array_equal(maps[place], found.segment_map)
        assert masks[place].to_list() == found.masks.to_list()

    # Outputs of half precision are converted.
    halves = Outputs(*(tf.cast(tf.constant(x), tf.bfloat16) for x in pictures[0]))
    eager = Fusion(CATEGORY_IDS, IS_THING.tolist(), num_detections=40)(*halves, geometry_of(size))
    compiled = finish(Outputs(*(tf.cast(x, tf.float32) for x in halves)), size)
    for ours, theirs in zip(eager, compiled, strict=True):
        if isinstance(ours, tf.RaggedTensor):
            assert ours.to_list() == theirs.to_list()
        elif ours is not None:
            np.testing.assert_array_equal(ours, theirs)
