"""Scoring a COCO-format panoptic result file against its ground truth, without a model."""

from __future__ import annotations

import contextlib
import functools
import time
from collections import Counter
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from panoptic_cli import console, processes
from panoptic_cli.categories import CategoryTable
from panoptic_cli.errors import DataError, PanopticError, summarize
from panoptic_cli.evaluation.category_figures import category_figures
from panoptic_cli.evaluation.pair_scoring import PartialScores, score_pairs, translated
from panoptic_cli.evaluation.panoptic_quality import PanopticQuality
from panoptic_cli.evaluation.report_data import ReportData, picture_of_file
from panoptic_cli.evaluation.result_files import PairedResults, ResultFiles, read_results
from panoptic_cli.images.mask_files import read_ids
from panoptic_cli.results.segment_entries import read_segments

_CHUNK = 25  # pictures per unit: enough to hide the cost of a unit, few enough to balance the work


@dataclass(frozen=True)
class FileScores:
    """The scores of a result file.

    Attributes:
        panoptic: see PanopticQuality.result.
        table: the ground truth's categories.
        report: what a report shows besides the figures; None if not asked for.
        images: the number of pictures.
        seconds: wall time.
        warnings: oddities in the files that do not change the figures.
    """

    panoptic: dict[str, Any]
    table: CategoryTable
    report: ReportData | None
    images: int
    seconds: float
    warnings: list[str]

    @property
    def images_per_second(self) -> float:
        """Pictures per second, including reading the JSONs."""
        return self.images / max(self.seconds, 1e-9)

    def to_dict(self) -> dict[str, Any]:
        """Returns the object that --json prints and metrics.json contains."""
        return {
            "panoptic": self.panoptic,
            "per_class": category_figures(self.panoptic, self.table),
            "images": self.images,
            "images_per_second": self.images_per_second,
        }


def score_files(files: ResultFiles, workers: int = 2, for_report: bool = False) -> FileScores:
    """Scores panoptic predictions with COCO's panoptic quality.

    Args:
        files: the predictions and their ground truth. Predictions of pictures that the ground truth does not have
            are ignored with a warning, as panopticapi does.
        workers: processes that decode and count; 1 scores in this process. The memory is that of the two JSONs and
            of some pictures per worker. The figures do not depend on it.
        for_report: whether to collect what a report shows besides the figures.

    Raises:
        DataError: a file or folder is missing or damaged, a picture has no prediction, or ids, categories or sizes
            disagree; names every such picture.
    """
    begun = time.monotonic()
    if workers > 1:
        processes.preload(score_pairs.__module__)  # while the JSONs are read
    results = read_results(files)
    report = ReportData(results.table) if for_report else None
    quality = PanopticQuality(results.table)
    problems: list[PanopticError] = []
    picture_quality: list[float | None] = []
    notes: Counter[str] = Counter()
    with contextlib.closing(_score_all(results, workers, for_report)) as parts:
        for part in parts:
            quality.merge(part.quality)
            problems += part.problems
            picture_quality += part.picture_quality
            notes += part.notes
            if report is not None and part.confusion is not None:
                report.confusion.merge(part.confusion)
    if problems:
        hint = next((problem.hint for problem in problems if problem.hint), None)
        raise DataError(summarize([problem.message for problem in problems]), hint)
    warnings = [*results.warnings, *(f"{count} {note}." for note, count in notes.items())]
    if quality.area_differences:
        warnings.append(
            f"{quality.area_differences} areas in {files.annotations} differ from the pixel counts, which are used "
            f"here ({quality.area_notes[0]}); panopticapi uses the JSON's areas, so its figures may differ."
        )
    seconds = time.monotonic() - begun
    if report is not None:
        _show_pictures(results, picture_quality, report, files.image_dir)
    return FileScores(quality.result(), results.table, report, quality.images, seconds, warnings)


def _score_all(results: PairedResults, workers: int, for_report: bool) -> Generator[PartialScores]:
    """Yields the scores of all pictures, in their order."""
    pairs = results.pairs
    units = [(place // _CHUNK, pairs[place : place + _CHUNK]) for place in range(0, len(pairs), _CHUNK)]
    work = functools.partial(
        score_pairs, results.table, results.categories, results.masks_dir, results.predictions_dir, for_report
    )
    with (
        console.progress("Scoring", len(pairs)) as advance,
        contextlib.closing(processes.run_units(work, units, min(workers, len(units)), advance)) as parts,
    ):
        yield from _in_order(parts)


def _in_order(parts: Iterable[PartialScores]) -> Iterator[PartialScores]:
    """Yields parts by their numbers; keeps those that come early."""
    early: dict[int, PartialScores] = {}
    following = 0
    for part in parts:
        early[part.number] = part
        while following in early:
            yield early.pop(following)
            following += 1


def _show_pictures(
    results: PairedResults, picture_quality: list[float | None], report: ReportData, image_dir: Path | None
) -> None:
    """Draws the worst and the best pictures for the report; reads their files again."""
    scored = [(pq, place) for place, pq in enumerate(picture_quality) if pq is not None]
    report.unscored += len(picture_quality) - len(scored)
    for pq, place in report.worst_and_best(scored):
        truth, predicted = results.pairs[place]
        image_id = truth["image_id"]
        maps = []
        for folder, entry, kind, categories in (
            (results.masks_dir, truth, "ground truth", results.categories[0]),
            (results.predictions_dir, predicted, "prediction", results.categories[1]),
        ):
            segments = translated(read_segments(entry["segments_info"], image_id, kind), categories)
            ids, _ = read_ids(folder / entry["file_name"], [segment.id for segment in segments])
            maps.append((ids, segments))
        picture = _picture(image_dir, results.file_names.get(image_id), maps[0][0].shape)
        report.add_picture(image_id, pq, picture, *maps[0], *maps[1])


def _picture(image_dir: Path | None, name: Any, shape: tuple[int, ...]) -> np.ndarray | None:
    """Returns a picture, uint8 [H, W, 3]; None if there is none to show."""
    if image_dir is None or not isinstance(name, str):
        return None
    path = image_dir / name
    picture = picture_of_file(path.read_bytes(), (shape[0], shape[1])) if path.is_file() else None
    if picture is None:
        console.warn(f"{path} is missing or cannot be read: the report shows only its maps.")
    return picture
