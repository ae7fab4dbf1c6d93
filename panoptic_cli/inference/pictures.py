"""Prediction on pictures: overlays, panoptic PNGs and one JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from panoptic_cli import console
from panoptic_cli.categories import CategoryTable
from panoptic_cli.errors import DataError
from panoptic_cli.evaluation.coco_ap import paste_masks_rle
from panoptic_cli.files import atomic_path
from panoptic_cli.images.drawing import draw_panoptic
from panoptic_cli.images.pictures import read_picture
from panoptic_cli.inference.predictor import PicturePrediction
from panoptic_cli.results.coco_files import PredictionWriter


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

    def predict_batch(self, pictures: Sequence[np.ndarray]) -> Iterator[PicturePrediction]:
        """Predicts pictures, each uint8 [height, width, 3]; yields them in order."""


def predict_pictures(
    predictor: PicturePredictor,
    pictures: Sequence[Path],
    output_dir: Path,
    *,
    batch_size: int = 1,
    score_threshold: float | None = None,
    alpha: float = 0.5,
) -> PredictionSummary:
    """Predicts pictures; a broken one is noted and the rest goes on.

    Args:
        predictor: what predicts.
        pictures: files.
        output_dir: gets overlay/*.png, pred/*.png, pred.json (COCO panoptic) and detections.json, whole or not at
            all; those of an earlier prediction are replaced.
        batch_size: pictures the network takes at once.
        score_threshold: detections written to detections.json have a greater score; None takes all.
        alpha: opacity of the overlay, 0..1.

    Returns:
        What was written and what failed.
    """
    summary = PredictionSummary()
    with (
        PredictionWriter(output_dir, predictor.table) as writer,
        atomic_path(output_dir / "overlay") as overlays,
        console.progress("Predicting", len(pictures)) as advance,
    ):
        overlays.mkdir()
        results = _Results(predictor.table, writer, overlays, score_threshold, alpha)
        waiting: list[tuple[int, Path, np.ndarray]] = []
        for image_id, path in enumerate(pictures, start=1):
            try:
                waiting.append((image_id, path, read_picture(path)))
            except DataError as error:
                summary.failed[str(path)] = error.message
                console.warn(error.message)
                advance()
            if len(waiting) == batch_size or (waiting and image_id == len(pictures)):
                predictions = predictor.predict_batch([pixels for _, _, pixels in waiting])
                for (number, file, pixels), prediction in zip(waiting, predictions, strict=True):
                    name = results.write(number, file, pixels, prediction)
                    summary.overlays.append(output_dir / "overlay" / name)
                    advance()
                waiting.clear()
    return summary


@dataclass
class _Results:
    """Writes everything about one picture after another."""

    table: CategoryTable
    writer: PredictionWriter
    overlays: Path
    score_threshold: float | None
    alpha: float

    def write(self, image_id: int, path: Path, pixels: np.ndarray, prediction: PicturePrediction) -> str:
        """Returns the name of the picture's PNGs."""
        # A label space with gaps (COCO's has some) knows classes that no category has: they are void.
        known = np.isin(prediction.category_map, list(self.table.by_id))
        category_map, instance_map = prediction.category_map * known, prediction.instance_map * known
        self.writer.add(image_id, str(path), category_map, instance_map)
        listed = np.isin(prediction.category_ids, [c.id for c in self.table.things])
        if self.score_threshold is not None:
            listed &= prediction.scores > self.score_threshold
        boxes = prediction.boxes[listed]
        masks = paste_masks_rle(prediction.masks[listed], boxes, *pixels.shape[:2])
        self.writer.add_detections(image_id, boxes, prediction.scores[listed], prediction.category_ids[listed], masks)
        scores = dict(enumerate(prediction.scores.tolist(), start=1))
        drawn = draw_panoptic(pixels, category_map, instance_map, self.table, scores=scores, alpha=self.alpha)
        name = self.writer.png_name()
        drawn.save(self.overlays / name, format="PNG", compress_level=3)
        return name
