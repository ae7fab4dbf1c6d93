"""Prediction on picture files: overlays, panoptic PNGs, one pred.json and one detections.json."""

from __future__ import annotations

import contextlib
import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from panoptic_cli import console
from panoptic_cli.categories import CategoryTable
from panoptic_cli.coco.image_info import ListedPicture
from panoptic_cli.errors import DataError, counted
from panoptic_cli.files import named_in_errors
from panoptic_cli.images.drawing import draw_panoptic
from panoptic_cli.images.orientation import Exif
from panoptic_cli.images.pictures import TURNED_NOTE, read_picture
from panoptic_cli.interrupts import no_second_interrupt, terminate_as_interrupt
from panoptic_cli.results.coco_files import PredictionWriter
from panoptic_cli.results.prediction import Prediction
from panoptic_cli.results.submission import write_submission


@dataclass
class PredictionSummary:
    """The outcome of predicting pictures.

    Attributes:
        done: number of predicted pictures.
        overlays: the overlay of each, if asked for.
        failed: {picture: reason} of the pictures that cannot be read.
        notes: changes to pictures that the user should know about, with their numbers.
        submission: the archive for COCO's server; None if not asked for, or if a picture failed.
    """

    done: int = 0
    overlays: list[Path] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    notes: Counter[str] = field(default_factory=Counter)
    submission: Path | None = None


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
    overlays: bool = True,
    listed: Mapping[Path, ListedPicture] | None = None,
    submission: Path | None = None,
) -> PredictionSummary:
    """Predicts pictures; records the ones that cannot be read, and continues with the rest.

    What is done when an error, Ctrl-C or SIGTERM ends it is kept, and the same call goes on from there.

    Args:
        predictor: the model.
        pictures: {file: image id}.
        output_dir: gets overlay/*.png, pred/*.png, pred.json (COCO panoptic) and detections.json; those of an earlier
            prediction are replaced, if any picture can be read. detections.json has the detections above the
            predictor's score threshold.
        source: names the model, so that another one does not go on with what this one did.
        batch_size: pictures that the network takes at once.
        alpha: opacity of the overlay, 0..1.
        exif: whether pictures are turned as the EXIF orientation says.
        overlays: whether to write overlay/*.png.
        listed: {file: its entry in a list}, which gives the file names in pred.json and the sizes that pictures must
            have; `exif` then only counts where both ways give that size. None for the files' paths, and any size.
        submission: an archive to write for COCO's server, if all pictures can be read; None for none.

    Returns:
        What is done, and the failures.
    """
    work = [_Work(path, image_id, (listed or {}).get(path)) for path, image_id in pictures.items()]
    listing = "\n".join(f"{image_id} {path}" for path, image_id in pictures.items())
    digest = hashlib.sha256(listing.encode(errors="surrogateescape")).hexdigest()
    task = {
        **{"model": source, "threshold": predictor.score_threshold, "exif": exif, "pictures": digest},
        **{"alpha": alpha if overlays else None, "listed": listed is not None},
    }
    notes: Counter[str] = Counter()
    writer = PredictionWriter(output_dir, predictor.table, folders=("overlay",), task=task)
    try:
        with terminate_as_interrupt():
            failed = _predict(predictor, work, writer, batch_size, alpha if overlays else None, exif, notes)
            names = writer.png_names
            if failed or not names:
                submission = None
            if names:
                writer.close(lambda folder: write_submission(folder, submission) if submission is not None else None)
    except BaseException:
        if writer.done and writer.is_open:
            with no_second_interrupt():
                kept = writer.keep()
            console.warn(
                f"{len(writer.done):,} of {counted(len(pictures), 'pictures')} are done and kept in {kept}. "
                "Run the same command again to go on."
            )
        raise
    finally:
        writer.abort()
    if not overlays:
        with contextlib.suppress(OSError):
            (output_dir / "overlay").rmdir()
    drawn = [output_dir / "overlay" / name for name in names] if overlays else []
    return PredictionSummary(len(names), drawn, failed, notes, submission)


@dataclass(frozen=True)
class _Work:
    """A picture to predict."""

    path: Path
    image_id: int | str
    listed: ListedPicture | None

    @property
    def name(self) -> str:
        """Its file name in pred.json."""
        return self.listed.file_name if self.listed is not None else str(self.path)

    @property
    def size(self) -> tuple[int, int] | None:
        """The (height, width) that it must have."""
        return self.listed.size if self.listed is not None else None


def _predict(
    predictor: PicturePredictor,
    work: Sequence[_Work],
    writer: PredictionWriter,
    batch_size: int,
    alpha: float | None,
    exif: Exif,
    notes: Counter[str],
) -> dict[str, str]:
    """Predicts and writes the pictures that are not done; returns why others cannot be read."""
    failed: dict[str, str] = {}
    done = set(writer.done)
    if done:
        console.info(f"Going on after {len(done):,} of {counted(len(work), 'pictures')}.")
    rest = [item for item in work if item.name not in done]
    waiting: list[tuple[_Work, np.ndarray, bool]] = []
    with console.progress("Predicting", len(work), start=len(done)) as advance:
        for place, item in enumerate(rest, start=1):
            turned = notes[TURNED_NOTE]
            try:
                accurate = predictor.accurate_jpeg
                pixels = read_picture(item.path, exif, notes, accurate_jpeg=accurate, size=item.size)
                waiting.append((item, pixels, notes[TURNED_NOTE] > turned))
            except DataError as error:
                failed[str(item.path)] = error.message
                console.warn(error.message)
                advance()
            if len(waiting) == batch_size or (waiting and place == len(rest)):
                predictions = predictor.predict_batch([pixels for _, pixels, _ in waiting])
                for (picture, pixels, is_turned), prediction in zip(waiting, predictions, strict=True):
                    if alpha is not None:  # first, so that a picture that is listed has all of its files
                        _draw(predictor, writer, picture, pixels, prediction, alpha)
                    writer.add(
                        picture.image_id, picture.name, prediction, predictor.score_threshold, is_turned=is_turned
                    )
                    advance()
                waiting.clear()
    return failed


def _draw(
    predictor: PicturePredictor,
    writer: PredictionWriter,
    picture: _Work,
    pixels: np.ndarray,
    prediction: Prediction,
    alpha: float,
) -> None:
    """Writes the overlay of one picture."""
    drawn = draw_panoptic(
        pixels,
        prediction.category_map,
        prediction.instance_map,
        predictor.table,
        scores=dict(enumerate(prediction.detections.scores.tolist(), start=1)),
        alpha=alpha,
    )
    with named_in_errors(writer.output_dir):
        drawn.save(writer.folder("overlay") / writer.png_name(picture.name), format="PNG", compress_level=3)
