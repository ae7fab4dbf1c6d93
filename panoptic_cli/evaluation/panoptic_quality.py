"""Panoptic quality as COCO measures it.

Source: Kirillov et al., "Panoptic Segmentation" (arXiv 1801.00868), section 4, with the rules of COCO's own
tool, panopticapi, for unlabelled pixels and crowds. The figures equal panopticapi's to 1e-12 with two
differences: a group of categories without any segment gives None with n = 0 instead of a division by zero, and the
area of a ground truth segment is its number of pixels, whatever its JSON says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from panoptic_cli.categories import VOID_ID, CategoryTable
from panoptic_cli.errors import DataError
from panoptic_cli.evaluation.label_runs import Overlaps, overlaps
from panoptic_cli.images.panoptic_png import MAX_ID
from panoptic_cli.results.prediction import Segment

_NOTES_KEPT = 10
# An IoU above 0.5 is a double in (0.5, 1], thus a multiple of 2**-53. Summed as integers, the total does not depend
# on the order of the pictures or on the number of processes or devices.
_IOU_UNIT = 2**53


@dataclass(frozen=True)
class PictureQuality:
    """How the segments of one picture were matched.

    Attributes:
        overlap: int64 [G + 1, P + 1], pixels that ground truth segments (rows) and predicted ones (columns) share,
            in the order they were listed; row and column 0 are void.
        gt_classes: int64 [G], places of their categories in the table.
        pred_classes: int64 [P], likewise.
        crowd: bool [G], whether each ground truth segment is a crowd.
        iou: sum over the matches.
        tp, fp, fn: numbers of matches, false and missed segments.
    """

    overlap: np.ndarray
    gt_classes: np.ndarray
    pred_classes: np.ndarray
    crowd: np.ndarray
    iou: float
    tp: int
    fp: int
    fn: int

    @property
    def pq(self) -> float | None:
        """PQ over all segments of the picture, 0..1, not averaged over categories; None if there are none."""
        weight = self.tp + 0.5 * (self.fp + self.fn)
        return self.iou / weight if weight else None


class PanopticQuality:
    """Accumulates panoptic quality picture by picture.

    Args:
        table: the categories to score.
    """

    def __init__(self, table: CategoryTable) -> None:
        self.table = table
        self.images = 0
        self.area_differences = 0
        self.area_notes: list[str] = []
        self._place = {category.id: place for place, category in enumerate(table.categories)}
        count = len(table.categories)
        self._tp = np.zeros(count, np.int64)
        self._fp = np.zeros(count, np.int64)
        self._fn = np.zeros(count, np.int64)
        self._iou = [0] * count  # in units of 1 / _IOU_UNIT

    def add(
        self,
        gt_map: np.ndarray,
        gt_segments: Sequence[Segment],
        pred_map: np.ndarray,
        pred_segments: Sequence[Segment],
        *,
        image: str | int = "?",
    ) -> PictureQuality:
        """Adds one picture; adds nothing if it raises.

        Args:
            gt_map: integer [H, W], segment ids of the ground truth; 0 for unlabelled.
            gt_segments: every segment of `gt_map`.
            pred_map: integer [H, W], segment ids of the prediction; 0 for void.
            pred_segments: every segment of `pred_map`.
            image: name or id of the picture, for messages.

        Returns:
            How its segments were matched.

        Raises:
            DataError: the maps differ in size, an id is in a map but not in its segments or vice versa, is
                listed twice or out of range, or a category is unknown; names the picture and the id.
        """
        if gt_map.shape != pred_map.shape or gt_map.ndim != 2:
            raise _size_error(image, gt_map.shape, pred_map.shape)
        for ids, kind in ((gt_map, "ground truth"), (pred_map, "prediction")):
            if ids.size and (ids.min() < 0 or ids.max() > MAX_ID):
                worst = int(ids.min()) if ids.min() < 0 else int(ids.max())
                raise DataError(f"Image {image}: id {worst} in the {kind} map is not in 0..{MAX_ID}.")
        return self.add_overlaps(overlaps(gt_map, pred_map), gt_segments, pred_segments, image=image)

    def add_overlaps(
        self,
        pairs: Overlaps,
        gt_segments: Sequence[Segment],
        pred_segments: Sequence[Segment],
        *,
        image: str | int = "?",
    ) -> PictureQuality:
        """Adds one picture, given as the overlaps of its two maps; otherwise like `add`."""
        gt_places = self._places(pairs.gt_ids, gt_segments, image, "ground truth")
        pred_places = self._places(pairs.pred_ids, pred_segments, image, "prediction")
        overlap = np.zeros((len(gt_segments) + 1, len(pred_segments) + 1), np.int64)
        overlap[gt_places, pred_places] = pairs.pixels
        gt_area, pred_area = overlap.sum(1)[1:], overlap.sum(0)[1:]
        _require_pixels(gt_area, gt_segments, image, "ground truth")
        _require_pixels(pred_area, pred_segments, image, "prediction")
        self._note_areas(gt_area, gt_segments, image)

        gt_class = self._classes(gt_segments)
        pred_class = self._classes(pred_segments)
        crowd = np.array([s.iscrowd for s in gt_segments], bool)
        on_void = overlap[VOID_ID, 1:]
        intersection = overlap[1:, 1:]
        # Unlabelled pixels in a prediction count neither for nor against it.
        union = gt_area[:, None] + pred_area - intersection - on_void
        candidate = (gt_class[:, None] == pred_class) & ~crowd[:, None]
        matched_gt, matched_pred = np.nonzero(candidate & (2 * intersection > union))
        ious = (intersection[matched_gt, matched_pred] / union[matched_gt, matched_pred]).tolist()
        matched_class = gt_class[matched_gt]
        for label, iou in zip(matched_class.tolist(), ious, strict=True):
            self._iou[label] += int(iou * _IOU_UNIT)
        np.add.at(self._tp, matched_class, 1)

        missed = ~crowd
        missed[matched_gt] = False
        np.add.at(self._fn, gt_class[missed], 1)

        ignorable = on_void.copy()
        # Of several crowds of one category, panopticapi only uses the last one listed; so do we.
        last_crowd = {int(gt_class[gt]): gt for gt in np.flatnonzero(crowd).tolist()}
        for label, gt in last_crowd.items():
            ignorable += np.where(pred_class == label, intersection[gt], 0)
        false = 2 * ignorable <= pred_area
        false[matched_pred] = False
        np.add.at(self._fp, pred_class[false], 1)
        self.images += 1
        counts = (len(ious), int(false.sum()), int(missed.sum()))
        return PictureQuality(overlap, gt_class, pred_class, crowd, sum(ious), *counts)

    def merge(self, other: PanopticQuality) -> None:
        """Adds the pictures of another accumulator; any order and grouping gives the same bits.

        Raises:
            ValueError: the two have different category tables.
        """
        if other.table != self.table:
            raise ValueError("panoptic qualities of different category tables cannot be merged")
        self._tp += other._tp
        self._fp += other._fp
        self._fn += other._fn
        self._iou = [mine + theirs for mine, theirs in zip(self._iou, other._iou, strict=True)]
        self.images += other.images
        self.area_differences += other.area_differences
        self.area_notes = (self.area_notes + other.area_notes)[:_NOTES_KEPT]

    def result(self) -> dict[str, Any]:
        """Returns the figures, each in 0..1.

        Returns:
            "All", "Things", "Stuff": {"pq", "sq", "rq", "n"}, averaged over the n categories that have a
            segment in the ground truth or one that counts in the predictions; None if n is 0.
            "per_class": {category id: {"pq", "sq", "rq", "iou" (sum over matches), "tp", "fp", "fn"}} for
            every category of the table.
        """
        per_class: dict[int, dict[str, float]] = {}
        for category in self.table.categories:
            place = self._place[category.id]
            tp, fp, fn = int(self._tp[place]), int(self._fp[place]), int(self._fn[place])
            iou = self._iou[place] / _IOU_UNIT
            weight = tp + 0.5 * fp + 0.5 * fn
            per_class[category.id] = {
                "pq": iou / weight if weight else 0.0,
                "sq": iou / tp if tp else 0.0,
                "rq": tp / weight if weight else 0.0,
                "iou": iou,
                "tp": tp,
                "fp": fp,
                "fn": fn,
            }
        return {
            "All": _average([per_class[c.id] for c in self.table.categories]),
            "Things": _average([per_class[c.id] for c in self.table.things]),
            "Stuff": _average([per_class[c.id] for c in self.table.stuff]),
            "per_class": per_class,
        }

    def _classes(self, segments: Sequence[Segment]) -> np.ndarray:
        return np.array([self._place[s.category_id] for s in segments], np.int64)

    def _places(self, ids: np.ndarray, segments: Sequence[Segment], image: str | int, kind: str) -> np.ndarray:
        """Maps ids [N] to their 1-based place in `segments`, void to 0; int64 [N]."""
        place_of = {VOID_ID: 0}
        for place, segment in enumerate(segments, start=1):
            if not VOID_ID < segment.id <= MAX_ID:
                raise DataError(
                    f"Image {image}: {kind} segment id {segment.id} is not in 1..{MAX_ID}.",
                    "Id 0 means void.",
                )
            if segment.category_id not in self._place:
                raise DataError(
                    f"Image {image}: {kind} segment {segment.id} has the unknown category {segment.category_id}.",
                    "The categories must be those of the ground truth's panoptic JSON.",
                )
            if segment.id in place_of:
                raise DataError(f"Image {image}: {kind} segment {segment.id} is listed twice.")
            place_of[segment.id] = place
        try:
            return np.array([place_of[i] for i in ids.tolist()], np.int64)
        except KeyError as stray:
            raise DataError(
                f"Image {image}: id {stray.args[0]} is in the {kind} map but not in its segments_info.",
                "The PNG and the JSON do not belong together, or the PNG is not RGB-encoded.",
            ) from None

    def _note_areas(self, areas: np.ndarray, segments: Sequence[Segment], image: str | int) -> None:
        for area, segment in zip(areas.tolist(), segments, strict=True):
            if segment.area is not None and segment.area != area:
                self.area_differences += 1
                if len(self.area_notes) < _NOTES_KEPT:
                    self.area_notes.append(
                        f"image {image}: segment {segment.id} has {area} pixels, its JSON says {segment.area}"
                    )


def _average(classes: Sequence[Mapping[str, float]]) -> dict[str, float | None]:
    present = [c for c in classes if c["tp"] + c["fp"] + c["fn"]]
    count = len(present)
    figures: dict[str, float | None] = {
        key: sum(c[key] for c in present) / count if count else None for key in ("pq", "sq", "rq")
    }
    return {**figures, "n": count}


def _require_pixels(areas: np.ndarray, segments: Sequence[Segment], image: str | int, kind: str) -> None:
    empty = np.flatnonzero(areas == 0)
    if empty.size:
        raise DataError(
            f"Image {image}: {kind} segment {segments[int(empty[0])].id} is in segments_info but has "
            "no pixels in the map.",
            "The PNG and the JSON do not belong together.",
        )


def _size_error(image: str | int, gt_shape: tuple[int, ...], pred_shape: tuple[int, ...]) -> DataError:
    gt, pred = (" x ".join(str(n) for n in shape) for shape in (gt_shape, pred_shape))
    return DataError(
        f"Image {image}: the ground truth is {gt} (height x width), the prediction {pred}.",
        "Predictions must have the picture's own size.",
    )
