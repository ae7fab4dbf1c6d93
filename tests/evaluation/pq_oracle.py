"""Panoptic quality pixel by pixel in plain Python, written from the rules and not from the library."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from typing import Any


def picture_counts(
    gt_map: list[list[int]],
    gt: list[tuple[int, int, bool]],
    pred_map: list[list[int]],
    pred: list[tuple[int, int]],
) -> dict[int, list[Any]]:
    """{category: [sum of IoU (exact), tp, fp, fn]} of one picture; segments are (id, category[, crowd])."""
    gt_area: Counter[int] = Counter()
    pred_area: Counter[int] = Counter()
    both: Counter[tuple[int, int]] = Counter()
    for gt_row, pred_row in zip(gt_map, pred_map, strict=True):
        for g, p in zip(gt_row, pred_row, strict=True):
            gt_area[g] += 1
            pred_area[p] += 1
            both[g, p] += 1
    counts: dict[int, list[Any]] = {}

    def of(category: int) -> list[Any]:
        return counts.setdefault(category, [Fraction(0), 0, 0, 0])

    hit_gt, hit_pred = set(), set()
    for g, g_category, crowd in gt:
        for p, p_category in pred:
            if crowd or g_category != p_category:
                continue
            inter = both[g, p]
            iou = Fraction(inter, gt_area[g] + pred_area[p] - inter - both[0, p])
            if iou > Fraction(1, 2):
                assert g not in hit_gt
                assert p not in hit_pred
                hit_gt.add(g)
                hit_pred.add(p)
                of(g_category)[0] += iou
                of(g_category)[1] += 1
    for g, category, crowd in gt:
        if not crowd and g not in hit_gt:
            of(category)[3] += 1
    for p, category in pred:
        if p in hit_pred:
            continue
        crowds = [g for g, g_category, crowd in gt if crowd and g_category == category]
        excused = both[0, p] + sum(both[g, p] for g in crowds[-1:])
        if Fraction(excused, pred_area[p]) <= Fraction(1, 2):
            of(category)[2] += 1
    return counts


def figures(totals: dict[int, list[Any]], categories: list[int]) -> dict[str, float | None]:
    """{"pq", "sq", "rq", "n"} averaged over those of `categories` that have counts; None without any."""
    rows = [totals[c] for c in categories if c in totals and sum(totals[c][1:])]
    if not rows:
        return {"pq": None, "sq": None, "rq": None, "n": 0}
    weights = [Fraction(tp) + Fraction(fp + fn, 2) for _, tp, fp, fn in rows]
    n = len(rows)
    return {
        "pq": float(sum(r[0] / w for r, w in zip(rows, weights, strict=True)) / n),
        "sq": float(sum((r[0] / r[1] if r[1] else Fraction(0)) for r in rows) / n),
        "rq": float(sum(Fraction(r[1]) / w for r, w in zip(rows, weights, strict=True)) / n),
        "n": n,
    }
