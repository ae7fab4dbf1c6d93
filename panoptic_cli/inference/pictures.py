"""Prediction on picture files: overlays, panoptic PNGs, one pred.json and one detections.json."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from panoptic_cli import console
from panoptic_cli.categories import CategoryTable
from panoptic_cli.errors import DataError
from panoptic_cli.images.drawing import draw_panoptic
from panoptic_cli.images.orientation import Exif
from panoptic_cli.images.pictures import TURNED_NOTE, read_picture
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

    @property
    def accurate_jpeg(self) -> bool:
        """How JPEG files are decoded for it, see `images.decoding.decode_image`."""

    def predict_batch(self, pictures: Sequence[np.ndarray]) -> Iterator[Prediction]:
        """Predicts pictures, each uint8 [height, width, 3]; yields them in order."""


def predict_pictures(
    predictor: PicturePredictor,
    pictures: Mapping[Path, int | str],
    output_dir: Path,
    *,
    source: str,
    batch_size: int = 1,
    alpha: float = 0.5,
    exif: Exif = "apply",
) -> PredictionSummary:
    """Predicts pictures; records the ones that cannot be read, and continues with the rest.

    What is done when an error or Ctrl-C ends it is kept, and the same call goes on from there.

    Args:
        predictor: the model.
        pictures: {file: image id}.
        output_dir: gets overlay/*.png, pred/*.png, pred.json (COCO panoptic) and detections.json; those of an earlier
            prediction are replaced, if any picture can be read. detections.json has the detections above the
            predictor's score threshold.
        source: names the model, so that another one does not go on with what this one did.
        batch_size: pictures that the network takes at once.
        alpha: opacity of the overlay, 0..1.
        exif: whether pictures are turned as their EXIF orientation says.

    Returns:
        The overlays and the failures.
    """
    listing = "\n".join(f"{image_id} {path}" for path, image_id in pictures.items())
    digest = hashlib.sha256(listing.encode(errors="surrogateescape")).hexdigest()
    task = {"model": source, "threshold": predictor.score_threshold, "alpha": alpha, "exif": exif, "pictures": digest}
    notes: Counter[str] = Counter()
    writer = PredictionWriter(output_dir, predictor.table, folders=("overlay",), task=task)
    try:
        failed = _predict(predictor, pictures, writer, batch_size, alpha, exif, notes)
        overlays = [output_dir / "overlay" / name for name in writer.png_names]
        writer.close() if overlays else writer.abort()
    except BaseException:
        if writer.done and writer.is_open:
            console.warn(
                f"{len(writer.done)} of {len(pictures)} pictures are done and kept in {writer.keep()}. "
                "Run the same command again to go on."
            )
        raise
    finally:
        writer.abort()
    return PredictionSummary(overlays, failed, notes)


def _predict(
    predictor: PicturePredictor,
    pictures: Mapping[Path, int | str],
    writer: PredictionWriter,
    batch_size: int,
    alpha: float,
    exif: Exif,
    notes: Counter[str],
) -> dict[str, str]:
    """Predicts and writes the pictures that are not done; returns why others cannot be read."""
    failed: dict[str, str] = {}
    done = set(writer.done)
    if done:
        console.info(f"Going on after {len(done)} of {len(pictures)} pictures.")
    rest = [(path, image_id) for path, image_id in pictures.items() if str(path) not in done]
    waiting: list[tuple[Path, int | str, np.ndarray, bool]] = []
    with console.progress("Predicting", len(pictures), start=len(done)) as advance:
        for place, (path, image_id) in enumerate(rest, start=1):
            turned = notes[TURNED_NOTE]
            try:
                pixels = read_picture(path, exif, notes, accurate_jpeg=predictor.accurate_jpeg)
                waiting.append((path, image_id, pixels, notes[TURNED_NOTE] > turned))
            except DataError as error:
                failed[str(path)] = error.message
                console.warn(error.message)
                advance()
            if len(waiting) == batch_size or (waiting and place == len(rest)):
                predictions = predictor.predict_batch([pixels for _, _, pixels, _ in waiting])
                for (file, number, pixels, is_turned), prediction in zip(waiting, predictions, strict=True):
                    _write(predictor, writer, number, file, pixels, prediction, alpha, is_turned)
                    advance()
                waiting.clear()
    return failed


def _write(
    predictor: PicturePredictor,
    writer: PredictionWriter,
    image_id: int | str,
    path: Path,
    pixels: np.ndarray,
    prediction: Prediction,
    alpha: float,
    is_turned: bool,
) -> None:
    """Writes the results of one picture; the overlay first, so that a picture that is listed has all of them."""
    drawn = draw_panoptic(
        pixels,
        prediction.category_map,
        prediction.instance_map,
        predictor.table,
        scores=dict(enumerate(prediction.detections.scores.tolist(), start=1)),
        alpha=alpha,
    )
    name = writer.png_name(str(path))
    drawn.save(writer.folder("overlay") / name, format="PNG", compress_level=3)
    writer.add(image_id, str(path), prediction, predictor.score_threshold, is_turned=is_turned)
