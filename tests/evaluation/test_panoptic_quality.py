from __future__ import annotations

import pickle
from fractions import Fraction
from typing import Any

import numpy as np
import pq_oracle
import pytest

from panoptic_cli.categories import CategoryTable
from panoptic_cli.errors import DataError
from panoptic_cli.evaluation.label_runs import overlaps, overlaps_rgb
from panoptic_cli.evaluation.panoptic_quality import PanopticQuality
from panoptic_cli.images import panoptic_png
from panoptic_cli.results.prediction import Segment

TABLE = CategoryTable.from_list(
    [
        {"id": 7, "name": "cat", "isthing": 1},
        {"id": 3, "name": "dog", "isthing": 1},
        {"id": 200, "name": "sky", "isthing": 0},
        {"id": 41, "name": "grass", "isthing": 0},
    ],
    "test",
)


def score(
    gt_map: Any, gt: list[Segment], pred_map: Any, pred: list[Segment], table: CategoryTable = TABLE
) -> dict[str, Any]:
    quality = PanopticQuality(table)
    quality.add(np.array(gt_map), gt, np.array(pred_map), pred, image="a.jpg")
    return quality.result()


def counts(result: dict[str, Any], category: int) -> tuple[int, int, int]:
    entry = result["per_class"][category]
    return entry["tp"], entry["fp"], entry["fn"]


def random_map(rng: np.random.Generator, ids: np.ndarray, base: np.ndarray | None) -> np.ndarray:
    """A small map of `ids` and 0: noise, or rectangles over a base so that good overlaps happen too."""
    shape = (rng.integers(1, 7), rng.integers(1, 7)) if base is None else base.shape
    choices = np.concatenate(([0], ids))
    if rng.random() < 0.2:
        return rng.choice(choices, shape)
    result = np.full(shape, rng.choice(choices))
    for _ in range(rng.integers(0, 5)):
        y, x = rng.integers(0, shape[0]), rng.integers(0, shape[1])
        result[y : y + rng.integers(1, 5), x : x + rng.integers(1, 5)] = rng.choice(choices)
    return result


def random_picture(rng: np.random.Generator) -> tuple[np.ndarray, list[Segment], np.ndarray, list[Segment]]:
    categories = [c.id for c in TABLE.categories]
    gt_ids = rng.choice(2**24 - 1, rng.integers(0, 6), replace=False) + 1
    gt_map = random_map(rng, gt_ids, None)
    if rng.random() < 0.5:  # a distorted copy of the ground truth, under other ids
        pred_map = gt_map.copy()
        noise = rng.random(gt_map.shape) < rng.choice([0.0, 0.1, 0.4])
        pred_map[noise] = rng.choice(np.concatenate(([0], gt_ids)), gt_map.shape)[noise]
    else:
        pred_map = random_map(rng, rng.choice(2**24 - 1, rng.integers(0, 6), replace=False) + 1, gt_map)
    gt_map = np.where(rng.random(gt_map.shape) < rng.choice([0.0, 0.3, 0.6]), 0, gt_map)
    gt = [
        Segment(int(i), int(rng.choice(categories[:2] if rng.random() < 0.7 else categories)), rng.random() < 0.5)
        for i in rng.permutation(np.unique(gt_map[gt_map > 0]))
    ]
    gt_category = {s.id: s.category_id for s in gt}
    pred = [
        Segment(int(i), gt_category.get(int(i), int(rng.choice(categories))))
        for i in rng.permutation(np.unique(pred_map[pred_map > 0]))
    ]
    return gt_map, gt, pred_map, pred


def test_equals_a_slow_oracle_on_thousands_of_random_maps() -> None:
    rng = np.random.default_rng(0)
    overall = PanopticQuality(TABLE)
    totals: dict[int, list[Any]] = {}
    seen = dict.fromkeys(("matched", "missed", "false", "several crowds"), 0)
    for number in range(2000):
        gt_map, gt, pred_map, pred = random_picture(rng)
        expected = pq_oracle.picture_counts(
            gt_map.tolist(),
            [(s.id, s.category_id, s.iscrowd) for s in gt],
            pred_map.tolist(),
            [(s.id, s.category_id) for s in pred],
        )
        single = PanopticQuality(TABLE)
        single.add(gt_map, gt, pred_map, pred, image=number)
        overall.merge(single)
        got = single.result()["per_class"]
        for category in TABLE.by_id:
            iou, tp, fp, fn = expected.get(category, [Fraction(0), 0, 0, 0])
            assert counts({"per_class": got}, category) == (tp, fp, fn), (number, category)
            assert got[category]["iou"] == pytest.approx(float(iou), abs=1e-14)
            sums = totals.setdefault(category, [Fraction(0), 0, 0, 0])
            totals[category] = [a + b for a, b in zip(sums, (iou, tp, fp, fn), strict=True)]
            seen["matched"] += tp
            seen["missed"] += fn
            seen["false"] += fp
        crowds = [s.category_id for s in gt if s.iscrowd]
        seen["several crowds"] += len(crowds) > len(set(crowds))
    assert min(seen.values()) > 50, f"the random maps leave a rule untried: {seen}"
    result = overall.result()
    for group, categories in (
        ("All", TABLE.categories),
        ("Things", TABLE.things),
        ("Stuff", TABLE.stuff),
    ):
        expected_figures = pq_oracle.figures(totals, [c.id for c in categories])
        assert result[group] == pytest.approx(expected_figures, abs=1e-12)


def test_figures_by_hand() -> None:
    # Sky: 4 of 5 pixels found, union 5, IoU 0.8. The cat is missed and a dog imagined in its place.
    result = score(
        [[1, 1, 1, 1, 1, 2, 2]],
        [Segment(1, 200), Segment(2, 7)],
        [[9, 9, 9, 9, 8, 8, 8]],
        [Segment(9, 200), Segment(8, 3)],
    )
    assert counts(result, 200) == (1, 0, 0)
    assert result["per_class"][200]["pq"] == 0.8
    assert counts(result, 7) == (0, 0, 1)
    assert counts(result, 3) == (0, 1, 0)
    assert result["Stuff"] == {"pq": 0.8, "sq": 0.8, "rq": 1.0, "n": 1}
    assert result["Things"] == {"pq": 0.0, "sq": 0.0, "rq": 0.0, "n": 2}
    assert result["All"] == pytest.approx({"pq": 0.8 / 3, "sq": 0.8 / 3, "rq": 1 / 3, "n": 3}, abs=1e-15)


def test_an_iou_of_exactly_one_half_is_no_match() -> None:
    result = score([[1, 1, 5, 5]], [Segment(1, 7), Segment(5, 200)], [[1, 0, 0, 0]], [Segment(1, 7)])
    assert counts(result, 7) == (0, 1, 1)


def test_void_under_a_prediction_does_not_count_against_it() -> None:
    result = score([[1, 1, 0, 0, 0]], [Segment(1, 7)], [[1, 1, 1, 1, 1]], [Segment(1, 7)])
    assert result["per_class"][7]["iou"] == 1.0


@pytest.mark.parametrize(("on_void", "false_positives"), [(2, 1), (3, 0)])
def test_a_prediction_mostly_on_void_is_no_false_positive(on_void: int, false_positives: int) -> None:
    gt = [[0] * on_void + [1] * 20]
    pred = [[5] * on_void + [5] * (4 - 2) + [0] * 18]
    assert counts(score(gt, [Segment(1, 200)], pred, [Segment(5, 7)]), 7) == (0, false_positives, 0)


@pytest.mark.parametrize(("crowd_category", "false_positives"), [(7, 0), (3, 1)])
def test_only_a_crowd_of_its_own_category_excuses_a_prediction(crowd_category: int, false_positives: int) -> None:
    result = score([[1, 1, 1, 1]], [Segment(1, crowd_category, iscrowd=True)], [[5, 5, 5, 0]], [Segment(5, 7)])
    assert counts(result, 7) == (0, false_positives, 0)
    assert counts(result, 3) == (0, 0, 0)


@pytest.mark.parametrize(("order", "false_positives"), [((1, 2), 1), ((2, 1), 0)])
def test_of_several_crowds_the_last_one_listed_counts(order: tuple[int, int], false_positives: int) -> None:
    crowds = [Segment(i, 7, iscrowd=True) for i in order]
    assert counts(score([[1, 1, 1, 2]], crowds, [[5, 5, 5, 0]], [Segment(5, 7)]), 7)[1] == false_positives


def test_nothing_at_all_is_undefined() -> None:
    result = score([[0, 0]], [], [[0, 0]], [])
    assert result["All"] == result["Things"] == result["Stuff"] == {"pq": None, "sq": None, "rq": None, "n": 0}


def test_a_table_without_stuff_gives_stuff_n_0() -> None:
    table = CategoryTable.from_list([{"id": 1, "name": "cell", "isthing": 1}], "test")
    result = score([[4, 4]], [Segment(4, 1)], [[9, 9]], [Segment(9, 1)], table)
    assert result["Stuff"]["n"] == 0
    assert result["All"] == result["Things"] == {"pq": 1.0, "sq": 1.0, "rq": 1.0, "n": 1}


def test_ground_truth_as_its_own_prediction_is_exactly_1() -> None:
    rng = np.random.default_rng(1)
    quality = PanopticQuality(TABLE)
    for _ in range(50):
        gt_map, gt, _, _ = random_picture(rng)
        crowds = [s.category_id for s in gt if s.iscrowd]
        if len(crowds) == len(set(crowds)):  # only the last crowd of a category excuses a prediction
            quality.add(gt_map, gt, gt_map, gt)
    assert quality.images > 30
    figures = quality.result()["All"]
    assert figures == {"pq": 1.0, "sq": 1.0, "rq": 1.0, "n": 4}


def test_the_order_and_grouping_of_pictures_changes_no_bit() -> None:
    rng = np.random.default_rng(2)
    pictures = [random_picture(rng) for _ in range(300)]
    straight = PanopticQuality(TABLE)
    for picture in pictures:
        straight.add(*picture)
    parts = [PanopticQuality(TABLE) for _ in range(7)]
    for place in rng.permutation(len(pictures)).tolist():
        parts[rng.integers(7)].add(*pictures[place])
    merged = PanopticQuality(TABLE)
    for part in parts:
        merged.merge(pickle.loads(pickle.dumps(part)))  # as between processes
    assert merged.result() == straight.result()
    assert merged.images == 300


def test_merging_over_different_tables_is_refused() -> None:
    other = CategoryTable.from_list([{"id": 1, "name": "cell", "isthing": 1}], "test")
    with pytest.raises(ValueError, match="different category tables"):
        PanopticQuality(TABLE).merge(PanopticQuality(other))


CAT = [Segment(300, 7)]


@pytest.mark.parametrize(
    ("gt_map", "gt", "pred_map", "pred", "names"),
    [
        ([[300]], CAT, [[300]], [Segment(300, 99)], "prediction segment 300 .* category 99"),
        ([[300]], [Segment(300, 99)], [[300]], CAT, "ground truth segment 300 .* category 99"),
        ([[300]], CAT, [[300]], [], "id 300 is in the prediction map"),
        ([[300]], [], [[300]], CAT, "id 300 is in the ground truth map"),
        ([[300]], CAT, [[0]], CAT, "prediction segment 300 .* no pixel"),
        ([[0]], CAT, [[300]], CAT, "ground truth segment 300 .* no pixel"),
        ([[300]], CAT, [[300]], CAT * 2, "prediction segment 300 is listed twice"),
        ([[300]], CAT, [[0]], [Segment(0, 7)], "prediction segment id 0 "),
        ([[300]], CAT, [[2**24]], [Segment(2**24, 7)], f"id {2**24} in the prediction map"),
        ([[300]], CAT, [[-1]], [], "id -1 in the prediction map"),
        ([[300]], CAT, [[300, 300]], CAT, "1 x 1 .* 1 x 2"),
    ],
)
def test_data_problems_name_picture_and_id(
    gt_map: Any, gt: list[Segment], pred_map: Any, pred: list[Segment], names: str
) -> None:
    quality = PanopticQuality(TABLE)
    with pytest.raises(DataError, match=f"a.jpg.*{names}"):
        quality.add(np.array(gt_map), gt, np.array(pred_map), pred, image="a.jpg")
    assert quality.images == 0
    assert quality.result()["All"]["n"] == 0


def test_areas_come_from_the_pixels_and_a_wrong_one_is_noted() -> None:
    quality = PanopticQuality(TABLE)
    quality.add(np.array([[1, 1]]), [Segment(1, 7, area=1)], np.array([[1, 1]]), [Segment(1, 7)], image="a.jpg")
    assert quality.result()["per_class"][7]["pq"] == 1.0
    assert quality.area_differences == 1
    assert quality.area_notes == ["image a.jpg: segment 1 has 2 pixels, its JSON says 1"]


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.uint32, np.int64])
def test_any_integer_type_will_do(dtype: type) -> None:
    maps: np.ndarray = np.array([[1, 2]], dtype)
    assert score(maps, [Segment(1, 7), Segment(2, 3)], maps, [Segment(1, 7), Segment(2, 3)])["All"]["pq"] == 1.0


def repeated(rng: np.random.Generator) -> np.ndarray:
    """A wide map: noise, one id, a pattern of eight pixels again and again, or runs of many lengths."""
    height, width = rng.integers(1, 9), rng.integers(1, 60)
    ids = rng.integers(0, 2**24, 4)
    pixels = rng.choice(ids, (4, height * width))
    pixels[1] = ids[0]
    pixels[2] = np.resize(pixels[2, :8], height * width)
    pixels[3] = np.repeat(pixels[3], rng.integers(1, 40))[: height * width]
    return pixels[rng.integers(4)].reshape(height, width)


def test_overlaps_are_the_joint_histogram() -> None:
    rng = np.random.default_rng(3)
    large = np.full((230, 300), 2**24 - 1), np.zeros((230, 300), int)  # runs longer than what is packed at once
    large[1].flat[40_000:] = 9
    for number in range(1000):
        gt_map = repeated(rng)
        pred_map = np.resize(repeated(rng), gt_map.shape)
        if number == 0:
            gt_map, pred_map = large
        pairs, counts = np.unique(np.stack((gt_map.ravel(), pred_map.ravel())), axis=1, return_counts=True)
        plain, encoded = (
            overlaps(gt_map, pred_map),
            overlaps_rgb(panoptic_png.ids_to_rgb(gt_map), panoptic_png.ids_to_rgb(pred_map)),
        )
        for result in (plain, encoded):
            np.testing.assert_array_equal(result.gt_ids, pairs[0])
            np.testing.assert_array_equal(result.pred_ids, pairs[1])
            np.testing.assert_array_equal(result.pixels, counts)


def test_empty_maps_overlap_nowhere() -> None:
    empty = np.zeros((0, 5), int)
    assert not overlaps(empty, empty).pixels.size
    assert not overlaps_rgb(panoptic_png.ids_to_rgb(empty), panoptic_png.ids_to_rgb(empty)).pixels.size
