"""Prediction on picture files: overlays, panoptic PNGs, one pred.json and one detections.json."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from panoptic_cli import console
from panoptic_cli.categories import CategoryTable
from panoptic_cli.errors import DataError
from panoptic_cli.files import atomic_path
from panoptic_cli.images.drawing import draw_panoptic
from panoptic_cli.images.orientation import Exif
from panoptic_cli.images.pictures import read_picture
from panoptic_cli.results.coco_files import PredictionWriter
from panoptic_cli.results.prediction import Prediction


@dataclass
class PredictionSummary:
    """The outcome of predicting pictures.

    Attributes:
        overlays: the overlay of each picture.
        failed: {picture: reason} of the pictures that cannot be read.
        notes: changes to pictures that the user should know about, with their numbers.
    """

    overlays: list[Path] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    notes: Counter[str] = field(default_factory=Counter)


class PicturePredictor(Protocol):
    """An object that predicts pictures: `inference.predictor.Predictor`, or an exported model."""

    @property
    def table(self) -> CategoryTable:
        """The categories."""

    @property
    def score_threshold(self) -> float:
        """Detections with a greater score become segments, 0..1."""

    def predict_batch(self, pictures: Sequence[np.ndarray]) -> Iterator[Prediction]:
        """Predicts pictures, each uint8 [height, width, 3]; yields them in order."""


def predict_pictures(
    predictor: PicturePredictor,
    pictures: Sequence[Path],
    output_dir: Path,
    *,
    batch_size: int = 1,
    alpha: float = 0.5,
    exif: Exif = "apply",
) -> PredictionSummary:
    """Predicts pictures; records the ones that cannot be read, and continues with the rest.

    Args:
        predictor: the model.
        pictures: files.
        output_dir: gets overlay/*.png, pred/*.png, pred.json (COCO panoptic) and detections.json, either completely or
            not at all; those of an earlier prediction are replaced. detections.json has the detections above the
            predictor's score threshold.
        batch_size: pictures that the network takes at once.
        alpha: opacity of the overlay, 0..1.
        exif: whether pictures are turned as their EXIF orientation says.

    Returns:
        The overlays and the failures.
    """
    summary = PredictionSummary()
    with (
        PredictionWriter(output_dir, predictor.table) as writer,
        atomic_path(output_dir / "overlay") as overlays,
        console.progress("Predicting", len(pictures)) as advance,
    ):
        overlays.mkdir()
        results = _Results(predictor, writer, overlays, alpha)
        waiting: list[tuple[int, Path, np.ndarray]] = []
        for image_id, path in enumerate(pictures, start=1):
            try:
                waiting.append((image_id, path, read_picture(path, exif, summary.notes)))
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
    """Writes all results of one picture after another."""

    predictor: PicturePredictor
    writer: PredictionWriter
    overlays: Path
    alpha: float

    def write(self, image_id: int, path: Path, pixels: np.ndarray, prediction: Prediction) -> str:
        """Returns the file name of the picture's PNGs."""
        name = self.writer.add(image_id, str(path), prediction, self.predictor.score_threshold).png_name
        drawn = draw_panoptic(
            pixels,
            prediction.category_map,
            prediction.instance_map,
            self.predictor.table,
            scores=dict(enumerate(prediction.detections.scores.tolist(), start=1)),
            alpha=self.alpha,
        )
        drawn.save(self.overlays / name, format="PNG", compress_level=3)
        return name
