from __future__ import annotations

import numpy as np
import pytest

from panoptic_cli.categories import CategoryTable, LabelSpace
from panoptic_cli.evaluation.semantic_iou import SemanticIoU

TABLE = CategoryTable.from_list(
    [
        {"id": 8, "name": "cat", "isthing": 1},
        {"id": 92, "name": "sky", "isthing": 0},
        {"id": 95, "name": "sea", "isthing": 0},
    ],
    "test",
)
SPACE = LabelSpace.create(TABLE, stuff_classes_offset=90)  # 0 void, 1 things, 2 sky, 5 sea; 3 and 4 are gaps


def test_figures_by_hand() -> None:
    metric = SemanticIoU(SPACE)
    metric.add(np.array([[2, 2, 2, 1, 1, 0, 255]]), np.array([[2, 2, 1, 1, 0, 2, 5]]))
    result = metric.result()
    assert result["per_class"] == {
        0: {"name": "things", "iou": 1 / 3, "pixels": 2},
        92: {"name": "sky", "iou": 2 / 3, "pixels": 3},  # the one on void does not count
        95: {"name": "sea", "iou": None, "pixels": 0},  # predicted on padding only
    }
    assert result["mIoU"] == pytest.approx(0.5)
    assert result["n"] == 2
    assert result["pixel_accuracy"] == pytest.approx(3 / 5)


def test_equals_counting_with_sets() -> None:
    rng = np.random.default_rng(0)
    whole = SemanticIoU(SPACE)
    truths, guesses = [], []
    for _ in range(20):
        truth = rng.choice(np.array([0, 1, 2, 5, 255], np.uint8), (9, 11))
        guess = np.where(rng.random(truth.shape) < 0.5, truth, rng.choice(np.array([0, 1, 2, 5]), truth.shape))
        guess = np.where(guess == 255, 3, guess)
        whole.add(truth, guess)
        truths.append(truth)
        guesses.append(guess)
    truth, guess = np.stack(truths), np.stack(guesses)
    counted = (truth != 255) & (truth != 0)
    for category_id, label in ((0, 1), (92, 2), (95, 5)):
        a, b = (truth == label) & counted, (guess == label) & counted
        assert whole.result()["per_class"][category_id]["iou"] == pytest.approx((a & b).sum() / (a | b).sum())


def test_nothing_seen_is_none() -> None:
    metric = SemanticIoU(SPACE)
    metric.add(np.full((2, 2), 255), np.zeros((2, 2), int))
    assert metric.result()["mIoU"] is None
    assert metric.result()["pixel_accuracy"] is None


def test_classes_out_of_range_are_refused() -> None:
    metric = SemanticIoU(SPACE)
    with pytest.raises(ValueError, match="labels go from 6"):
        metric.add(np.array([6]), np.array([0]))
    with pytest.raises(ValueError, match="predictions go from -1"):
        metric.add(np.array([0]), np.array([-1]))
    with pytest.raises(ValueError, match="differ in shape"):
        metric.add(np.zeros((2, 2), int), np.zeros((2, 3), int))
