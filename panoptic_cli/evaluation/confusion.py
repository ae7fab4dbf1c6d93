"""Counting which categories are predicted for the pixels of which."""

from __future__ import annotations

import numpy as np

from panoptic_cli.categories import Category, CategoryTable
from panoptic_cli.evaluation.panoptic_quality import PictureQuality


class Confusion:
    """Counts pixels by category of the ground truth and of the prediction.

    Pixels that are unlabelled or crowd in the ground truth do not count.

    Args:
        table: the categories.

    Attributes:
        pixels: int64 [C + 1, C + 1], by place in the table of the ground truth's category (rows, from 1; row 0 is
            empty) and of the predicted one (columns, from 1; 0 is void).
    """

    def __init__(self, table: CategoryTable) -> None:
        self.table = table
        size = len(table.categories) + 1
        self.pixels = np.zeros((size, size), np.int64)

    def add(self, quality: PictureQuality) -> None:
        """Adds the pixels of one picture."""
        rows = quality.gt_classes[~quality.crowd] + 1
        columns = np.concatenate(([0], quality.pred_classes + 1))
        np.add.at(self.pixels, (rows[:, None], columns), quality.overlap[1:][~quality.crowd])

    def merge(self, other: Confusion) -> None:
        """Adds the pixels that another object counted with the same table."""
        self.pixels += other.pixels

    def most_frequent(self, limit: int) -> list[tuple[Category, Category | None, int, float]]:
        """Returns the most frequent confusions.

        Returns:
            (true category, predicted category or None for void, pixels, their share of the true category's
            pixels, 0..1), most pixels first.
        """
        wrong = self.pixels.copy()
        np.fill_diagonal(wrong, 0)
        totals = self.pixels.sum(1)
        columns = len(wrong)
        places = [p for p in np.argsort(-wrong, axis=None, kind="stable")[:limit].tolist() if wrong.flat[p]]
        categories: list[Category | None] = [None, *self.table.categories]
        return [
            (self.table.categories[p // columns - 1], categories[p % columns], int(wrong.flat[p]), share)
            for p in places
            for share in [float(wrong.flat[p] / totals[p // columns])]
        ]

    def by_kind(self) -> dict[str, dict[str, int]]:
        """Returns pixels: {"things", "stuff"} of the ground truth by {"right", "things", "stuff", "void"} predicted.

        The predicted "things" and "stuff" are wrong categories of that kind.
        """
        is_thing = np.array([False, *(c.isthing for c in self.table.categories)])
        is_stuff = ~is_thing
        is_stuff[0] = False
        right = self.pixels.diagonal()
        kinds = {"things": is_thing, "stuff": is_stuff}
        found = {}
        for name, rows in kinds.items():
            part, hits = self.pixels[rows], int(right[rows].sum())
            counts = {kind: int(part[:, columns].sum()) for kind, columns in kinds.items()}
            counts[name] -= hits
            found[name] = {"right": hits, **counts, "void": int(part[:, 0].sum())}
        return found
