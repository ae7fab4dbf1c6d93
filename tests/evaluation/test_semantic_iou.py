from __future__ import annotations

import numpy as np
import pytest

from panoptic_cli.categories import ANY_THING, VOID_ID, CategoryTable
from panoptic_cli.evaluation.semantic_iou import SemanticIoU

TABLE = CategoryTable.from_list(
    [
        {"id": 8, "name": "cat", "isthing": 1},
        {"id": 95, "name": "sea", "isthing": 0},
        {"id": 92, "name": "sky", "isthing": 0},
    ],
    "test",
)
THING, VOID, SKY, SEA = ANY_THING, VOID_ID, 92, 95


def test_figures_by_hand() -> None:
    metric = SemanticIoU(TABLE)
    labels = [[SKY, SKY, SKY, THING, THING, VOID, VOID]]
    metric.add(np.array(labels), np.array([[SKY, SKY, THING, THING, VOID, SKY, SEA]]))
    result = metric.result()
    assert result["per_class"] == {
        0: {"name": "things", "iou": 1 / 3, "pixels": 2},
        SEA: {"name": "sea", "iou": None, "pixels": 0},  # predicted only on void
        SKY: {"name": "sky", "iou": 2 / 3, "pixels": 3},  # the prediction on void does not count
    }
    assert result["mIoU"] == pytest.approx(0.5)
    assert result["n"] == 2
    assert result["pixel_accuracy"] == pytest.approx(3 / 5)


def test_equals_counting_with_sets() -> None:
    rng = np.random.default_rng(0)
    whole = SemanticIoU(TABLE)
    values = np.array([VOID, THING, SKY, SEA])
    truth = rng.choice(values, (20, 9, 11))
    guess = np.where(rng.random(truth.shape) < 0.5, truth, rng.choice(values, truth.shape))
    for one, other in zip(truth, guess, strict=True):
        whole.add(one, other.astype(np.int32))
    counted = truth != VOID
    for category_id, value in ((0, THING), (SKY, SKY), (SEA, SEA)):
        a, b = (truth == value) & counted, (guess == value) & counted
        assert whole.result()["per_class"][category_id]["iou"] == pytest.approx((a & b).sum() / (a | b).sum())


def test_all_of_300_stuff_categories_count() -> None:
    table = CategoryTable.from_list([{"id": i, "name": str(i), "isthing": 0} for i in range(1, 301)], "test")
    labels = np.arange(1, 301).reshape(20, 15)
    metric = SemanticIoU(table)
    metric.add(labels, labels)
    result = metric.result()
    assert (result["n"], result["mIoU"], result["pixel_accuracy"]) == (300, 1.0, 1.0)
    metric.add(labels, np.where(labels == 255, 254, labels))
    assert metric.result()["per_class"][255] == {"name": "255", "iou": 0.5, "pixels": 2}


def test_nothing_seen_is_none() -> None:
    metric = SemanticIoU(TABLE)
    metric.add(np.full((2, 2), VOID), np.full((2, 2), SKY))
    assert metric.result()["mIoU"] is None
    assert metric.result()["pixel_accuracy"] is None


@pytest.mark.parametrize("unknown", [8, 93, 1000, -2])
def test_other_ids_are_refused(unknown: int) -> None:
    metric = SemanticIoU(TABLE)
    with pytest.raises(ValueError, match=f"labels contain {unknown}"):
        metric.add(np.array([unknown]), np.array([VOID]))
    with pytest.raises(ValueError, match=f"predictions contain {unknown}"):
        metric.add(np.array([VOID]), np.array([unknown]))


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match="differ in shape"):
        SemanticIoU(TABLE).add(np.zeros((2, 2), int), np.zeros((2, 3), int))
