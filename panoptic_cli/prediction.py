"""Prediction on pictures: overlays, panoptic PNGs and one JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from panoptic_cli import console
from panoptic_cli.categories import CategoryTable
from panoptic_cli.errors import DataError
from panoptic_cli.evaluation.coco_ap import paste_masks_rle
from panoptic_cli.evaluation.predictions import PredictionWriter
from panoptic_cli.files import atomic_path
from panoptic_cli.inference import PicturePrediction
from panoptic_cli.pictures import read_picture
from panoptic_cli.visualization import draw_panoptic


@dataclass
class PredictionSummary:
    """What was predicted.

    Attributes:
        overlays: the overlay of each picture.
        failed: {picture: reason} of those that could not be read.
    """

    overlays: list[Path] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


class PicturePredictor(Protocol):
    """What predicts pictures: `inference.Predictor` or `export.exported_model.ExportedModel`."""

    @property
    def table(self) -> CategoryTable:
        """The categories."""

    def predict(self, pixels: np.ndarray) -> PicturePrediction:
        """Predicts one picture, uint8 [height, width, 3]."""


def predict_pictures(
    predictor: PicturePredictor,
    pictures: Sequence[Path],
    output_dir: Path,
    *,
    score_threshold: float | None = None,
    alpha: float = 0.5,
) -> PredictionSummary:
    """Predicts pictures one after another; a broken one is noted and the rest goes on.

    Args:
        predictor: what predicts.
        pictures: files.
        output_dir: gets overlay/*.png, pred/*.png, pred.json (COCO panoptic) and detections.json, whole or not at
            all; those of an earlier prediction are replaced.
        score_threshold: detections written to detections.json have a greater score; None takes all.
        alpha: opacity of the overlay's colours, 0..1.

    Returns:
        What was written and what failed.
    """
    table = predictor.table
    summary = PredictionSummary()
    with (
        PredictionWriter(output_dir, table) as writer,
        atomic_path(output_dir / "overlay") as overlays,
        console.progress("Predicting", len(pictures)) as advance,
    ):
        overlays.mkdir()
        for image_id, path in enumerate(pictures, start=1):
            try:
                pixels = read_picture(path)
            except DataError as error:
                summary.failed[str(path)] = error.message
                console.warn(error.message)
                advance()
                continue
            prediction = predictor.predict(pixels)
            writer.add(image_id, str(path), prediction.category_map, prediction.instance_map)
            known = np.isin(prediction.category_ids, [c.id for c in table.things])
            if score_threshold is not None:
                known &= prediction.scores > score_threshold
            boxes = prediction.boxes[known]
            masks = paste_masks_rle(prediction.masks[known], boxes, *pixels.shape[:2])
            writer.add_detections(image_id, boxes, prediction.scores[known], prediction.category_ids[known], masks)
            drawn = draw_panoptic(
                pixels,
                prediction.category_map,
                prediction.instance_map,
                table,
                scores=dict(enumerate(prediction.scores.tolist(), start=1)),
                alpha=alpha,
            )
            drawn.save(overlays / writer.png_name(), format="PNG")
            summary.overlays.append(output_dir / "overlay" / writer.png_name())
            advance()
    return summary
