"""Mean intersection over union of the semantic head."""

from __future__ import annotations

from typing import Any

import numpy as np

from panoptic_cli.categories import THING_LABEL, VOID_LABEL, LabelSpace

IGNORE_LABEL = 255  # padding


class SemanticIoU:
    """Sums up a confusion matrix over the semantic classes of a label space.

    Args:
        label_space: which classes there are.

    Attributes:
        confusion: int64 [classes, classes], pixels by ground truth (rows) and prediction (columns).
    """

    def __init__(self, label_space: LabelSpace) -> None:
        self.label_space = label_space
        classes = label_space.num_semantic_classes
        self.confusion = np.zeros((classes, classes), np.int64)

    def add(self, labels: np.ndarray, predictions: np.ndarray) -> None:
        """Adds pictures.

        Args:
            labels: integer, any shape: the semantic class of each pixel; 255 is left out.
            predictions: integer, the same shape: the predicted class of each pixel.

        Raises:
            ValueError: the shapes differ, or a class is out of range.
        """
        if labels.shape != predictions.shape:
            raise ValueError(f"labels {labels.shape} and predictions {predictions.shape} differ in shape")
        kept = labels != IGNORE_LABEL
        truth, guess = labels[kept].astype(np.int64), predictions[kept].astype(np.int64)
        classes = len(self.confusion)
        for name, values in (("labels", truth), ("predictions", guess)):
            if values.size and not 0 <= values.min() <= values.max() < classes:
                raise ValueError(f"{name} go from {values.min()} to {values.max()}, classes from 0 to {classes - 1}")
        joint = np.bincount(truth * classes + guess, minlength=classes * classes)
        self.confusion += joint.reshape(classes, classes)

    def result(self) -> dict[str, Any]:
        """Returns the figures, each in 0..1.

        Pixels that are void in the ground truth have no right answer and do not count; void predicted on any
        other pixel is a miss of that pixel's class.

        Returns:
            "mIoU": mean over the classes with a pixel in the ground truth or the prediction, None where there
            is none; "pixel_accuracy", None likewise; "n": the number of those classes; "per_class": {category
            id, 0 for all things together: {"name", "iou" (None where the class has no pixel), "pixels" in the
            ground truth}}.
        """
        counted = self.confusion.copy()
        counted[VOID_LABEL] = 0
        hit = counted.diagonal()
        pixels = counted.sum(1)
        union = pixels + counted.sum(0) - hit
        per_class: dict[int, dict[str, Any]] = {}
        table = self.label_space.table
        for label, category_id in enumerate(self.label_space.semantic_ids.tolist()):
            if label != THING_LABEL and category_id not in table.by_id:
                continue  # void, or a class that the data set does not have
            per_class[category_id] = {
                "name": "things" if label == THING_LABEL else table.by_id[category_id].name,
                "iou": float(hit[label] / union[label]) if union[label] else None,
                "pixels": int(pixels[label]),
            }
        present = [entry["iou"] for entry in per_class.values() if entry["iou"] is not None]
        total = int(pixels.sum())
        return {
            "mIoU": sum(present) / len(present) if present else None,
            "pixel_accuracy": float(hit.sum() / total) if total else None,
            "n": len(present),
            "per_class": per_class,
        }
