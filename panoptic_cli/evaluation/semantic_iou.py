"""Mean intersection over union of the semantic head."""

from __future__ import annotations

from typing import Any

import numpy as np

from panoptic_cli.categories import ANY_THING, VOID_ID, CategoryTable
from panoptic_cli.evaluation.label_runs import run_starts

_VOID, _THINGS = 0, 1  # rows and columns of the confusion matrix; those of stuff follow in table order


class SemanticIoU:
    """Accumulates a confusion matrix over the stuff categories, all things as one class, and void.

    Args:
        table: the categories.
    """

    def __init__(self, table: CategoryTable) -> None:
        self.table = table
        ids = np.array([VOID_ID, ANY_THING, *(c.id for c in table.stuff)], np.int64)
        self._class_of_place = np.argsort(ids)
        self._sorted_ids = ids[self._class_of_place]
        self._confusion = np.zeros((len(ids), len(ids)), np.int64)  # pixels: [ground truth, prediction]

    def add(self, labels: np.ndarray, predictions: np.ndarray) -> None:
        """Adds pictures.

        Args:
            labels: integer, any shape: category ids of stuff, ANY_THING or VOID_ID.
            predictions: integer, the same shape and values.

        Raises:
            ValueError: the shapes differ, or a value is none of these.
        """
        if labels.shape != predictions.shape:
            raise ValueError(f"labels {labels.shape} and predictions {predictions.shape} differ in shape")
        truth, guess = labels.reshape(-1), predictions.reshape(-1)
        starts = run_starts(truth, guess)
        lengths = np.diff(starts, append=truth.size)
        np.add.at(
            self._confusion,
            (self._classes(truth[starts], "labels"), self._classes(guess[starts], "predictions")),
            lengths,
        )

    def _classes(self, ids: np.ndarray, name: str) -> np.ndarray:
        """Returns int64 [N], the classes of ids [N]."""
        places = np.searchsorted(self._sorted_ids, ids)
        places = np.minimum(places, len(self._sorted_ids) - 1)
        unknown = ids[self._sorted_ids[places] != ids]
        if unknown.size:
            raise ValueError(f"{name} contain {unknown[0]}, which is not the id of a stuff category")
        return self._class_of_place[places]

    def result(self) -> dict[str, Any]:
        """Returns the figures, each in 0..1.

        Pixels that are void in the ground truth do not count; void predicted on any other pixel is a miss of that
        pixel's class.

        Returns:
            "mIoU": mean over the classes that have a pixel in the ground truth or the prediction, None if there are
            none; "pixel_accuracy", likewise; "n": the number of those classes; "per_class": {category id, 0 for all
            things together: {"name", "iou" (None if the class has no pixels), "pixels" in the ground truth}}.
        """
        counted = self._confusion.copy()
        counted[_VOID] = 0
        hit = counted.diagonal()
        pixels = counted.sum(1)
        union = pixels + counted.sum(0) - hit
        names = [(0, "things"), *((c.id, c.name) for c in self.table.stuff)]
        per_class: dict[int, dict[str, Any]] = {
            category_id: {
                "name": name,
                "iou": float(hit[place] / union[place]) if union[place] else None,
                "pixels": int(pixels[place]),
            }
            for place, (category_id, name) in enumerate(names, start=_THINGS)
        }
        present = [entry["iou"] for entry in per_class.values() if entry["iou"] is not None]
        total = int(pixels.sum())
        return {
            "mIoU": sum(present) / len(present) if present else None,
            "pixel_accuracy": float(hit.sum() / total) if total else None,
            "n": len(present),
            "per_class": per_class,
        }
