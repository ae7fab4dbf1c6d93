"""Scoring pictures of a result file: the part that runs in worker processes, so it imports little."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from panoptic_cli.categories import VOID_ID, CategoryTable
from panoptic_cli.errors import DataError, PanopticError
from panoptic_cli.evaluation.confusion import Confusion
from panoptic_cli.evaluation.label_runs import Overlaps, overlaps_rgb
from panoptic_cli.evaluation.panoptic_quality import PanopticQuality
from panoptic_cli.evaluation.result_files import Pair
from panoptic_cli.images import panoptic_png
from panoptic_cli.images.mask_files import read_ids
from panoptic_cli.results.prediction import Segment
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
        notes: how often a mask differs from COCO's in which way.
    """

    number: int
    quality: PanopticQuality
    confusion: Confusion | None
    problems: list[PanopticError] = field(default_factory=list)
    picture_quality: list[float | None] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class _Side:
    """The mask of a picture, and its segments."""

    path: Path
    segments: Sequence[Segment]

    def lists(self, ids: np.ndarray) -> bool:
        return {VOID_ID, *(segment.id for segment in self.segments)}.issuperset(ids.tolist())

    def read_otherwise(self, notes: Counter[str]) -> np.ndarray:
        """Reads the colours of a mask that is not one of COCO's."""
        ids, note = read_ids(self.path, [segment.id for segment in self.segments])
        notes.update([] if note is None else [note])
        return panoptic_png.ids_to_rgb(ids)


def score_pairs(
    table: CategoryTable,
    categories: tuple[Mapping[int, int] | None, Mapping[int, int] | None],
    masks_dir: Path,
    predictions_dir: Path,
    for_report: bool,
    unit: tuple[int, list[Pair]],
    advance: Callable[[int], None],
) -> PartialScores:
    """Scores some pictures; one that cannot be scored does not hide the problems of the next.

    Args:
        table: the categories.
        categories: {category id in the ground truth: id in the table}, None if they are the same; likewise of the
            predictions.
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
            sides = (
                _Side(
                    masks_dir / truth["file_name"],
                    translated(read_segments(truth["segments_info"], image, "ground truth"), categories[0]),
                ),
                _Side(
                    predictions_dir / predicted["file_name"],
                    translated(read_segments(predicted["segments_info"], image, "prediction"), categories[1]),
                ),
            )
            quality = part.quality.add_overlaps(
                _overlaps(image, *sides, part.notes), sides[0].segments, sides[1].segments, image=image
            )
            if part.confusion is not None:
                part.confusion.add(quality)
                part.picture_quality.append(quality.pq)
        except PanopticError as error:
            part.problems.append(error)
    advance(len(pairs))
    return part


def translated(segments: Sequence[Segment], categories: Mapping[int, int] | None) -> Sequence[Segment]:
    """Replaces the category ids of segments; ids without a translation stay."""
    if categories is None:
        return segments
    return [replace(s, category_id=categories.get(s.category_id, s.category_id)) for s in segments]


def _overlaps(image: int | str, truth: _Side, predicted: _Side, notes: Counter[str]) -> Overlaps:
    """Counts the joint pixels of two masks, which are read in another way if their ids are not listed."""
    sides = (truth, predicted)
    rgb = [panoptic_png.read_rgb(side.path) for side in sides]
    if rgb[0].shape != rgb[1].shape:
        raise _size_error(image, rgb[0].shape, rgb[1].shape)
    found = overlaps_rgb(*rgb)
    listed = [side.lists(ids) for side, ids in zip(sides, (found.gt_ids, found.pred_ids), strict=True)]
    if all(listed):
        return found
    return overlaps_rgb(
        *(r if known else side.read_otherwise(notes) for r, known, side in zip(rgb, listed, sides, strict=True))
    )


def _size_error(image: int | str, truth: tuple[int, ...], predicted: tuple[int, ...]) -> DataError:
    sizes = [f"{width} x {height}" for height, width, *_ in (truth, predicted)]
    is_turned = truth[:2] == predicted[1::-1]
    return DataError(
        f"Image {image}: the ground truth is {sizes[0]} (width x height), the prediction {sizes[1]}.",
        "One of them is turned as the picture's EXIF orientation says; 'panoptic predict --exif ignore' predicts the "
        "stored pixels."
        if is_turned
        else "Predictions must have the picture's own size.",
    )


def _keep_freed_memory() -> None:
    """Makes the C library keep freed picture buffers: it keeps blocks up to the size of one that was freed before.

    Otherwise the system provides every picture's pages anew, which takes a fifth of the whole time. No page of this
    block is ever touched.
    """
    np.empty(30 << 20, np.uint8)
