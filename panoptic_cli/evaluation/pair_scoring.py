"""Scoring pictures of a result file: the part that runs in worker processes, so it imports little."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from panoptic_cli.categories import CategoryTable
from panoptic_cli.errors import DataError, PanopticError
from panoptic_cli.evaluation.confusion import Confusion
from panoptic_cli.evaluation.label_runs import overlaps_rgb
from panoptic_cli.evaluation.panoptic_quality import PanopticQuality
from panoptic_cli.evaluation.result_files import Pair
from panoptic_cli.images import panoptic_png
from panoptic_cli.results.segment_entries import read_segments


@dataclass
class PartialScores:
    """The scores of some pictures.

    Attributes:
        number: place of the unit.
        quality: of the pictures without problems.
        confusion: likewise; None if no report is needed.
        problems: why the other pictures cannot be scored.
        picture_quality: PQ of each picture, for a report only.
    """

    number: int
    quality: PanopticQuality
    confusion: Confusion | None
    problems: list[PanopticError] = field(default_factory=list)
    picture_quality: list[float | None] = field(default_factory=list)


def score_pairs(
    table: CategoryTable,
    masks_dir: Path,
    predictions_dir: Path,
    for_report: bool,
    unit: tuple[int, list[Pair]],
    advance: Callable[[int], None],
) -> PartialScores:
    """Scores some pictures; one that cannot be scored does not hide the problems of the next.

    Args:
        table: the categories.
        masks_dir: folder of the ground truth's PNGs.
        predictions_dir: folder of the predicted PNGs.
        for_report: whether to collect what a report needs.
        unit: its number, and the annotations of its pictures.
        advance: called with the number of pictures when they are done.
    """
    _keep_freed_memory()
    number, pairs = unit
    part = PartialScores(number, PanopticQuality(table), Confusion(table) if for_report else None)
    for truth, predicted in pairs:
        image = truth["image_id"]
        try:
            truth_rgb = panoptic_png.read_rgb(masks_dir / truth["file_name"])
            predicted_rgb = panoptic_png.read_rgb(predictions_dir / predicted["file_name"])
            if truth_rgb.shape != predicted_rgb.shape:
                sizes = [f"{rgb.shape[1]} x {rgb.shape[0]}" for rgb in (truth_rgb, predicted_rgb)]
                raise DataError(
                    f"Image {image}: the ground truth is {sizes[0]} (width x height), the prediction {sizes[1]}.",
                    "Predictions must have the picture's own size.",
                )
            quality = part.quality.add_overlaps(
                overlaps_rgb(truth_rgb, predicted_rgb),
                read_segments(truth["segments_info"], image, "ground truth"),
                read_segments(predicted["segments_info"], image, "prediction"),
                image=image,
            )
            if part.confusion is not None:
                part.confusion.add(quality)
                part.picture_quality.append(quality.pq)
        except PanopticError as error:
            part.problems.append(error)
    advance(len(pairs))
    return part


def _keep_freed_memory() -> None:
    """Makes the C library keep freed picture buffers: it keeps blocks up to the size of one that was freed before.

    Otherwise the system provides every picture's pages anew, which takes a fifth of the whole time. No page of this
    block is ever touched.
    """
    np.empty(30 << 20, np.uint8)
