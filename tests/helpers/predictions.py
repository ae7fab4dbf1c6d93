"""Predictions made by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from panoptic_cli.categories import CategoryTable
from panoptic_cli.evaluation.groundtruth import segments_from_maps
from panoptic_cli.results.prediction import Detections, Prediction


def prediction_of(
    category_map: np.ndarray,
    instance_map: np.ndarray,
    table: CategoryTable,
    detections: Detections | None = None,
    semantic_map: np.ndarray | None = None,
) -> Prediction:
    """Builds a prediction from category ids, integer [H, W], and 1-based places of detections, integer [H, W]."""
    segment_map, segments = segments_from_maps(np.asarray(category_map), np.asarray(instance_map), table)
    detection_of_segment = np.zeros(len(segments), np.int32)
    inside = segment_map > 0
    detection_of_segment[segment_map[inside] - 1] = np.asarray(instance_map)[inside]
    return Prediction(segment_map, segments, detections or no_detections(), detection_of_segment, semantic_map)


def no_detections() -> Detections:
    """Builds an empty list of detections."""
    return detections_of(np.zeros((0, 4)), [], [], [])


def detections_of(
    boxes: np.ndarray, scores: Sequence[float], category_ids: Sequence[int], masks: Sequence[np.ndarray]
) -> Detections:
    """Builds detections with masks given as pictures of 0 and 1, integer [H, W]."""
    return Detections(
        np.asarray(boxes, np.float32).reshape(-1, 4),
        np.asarray(scores, np.float32),
        np.asarray(category_ids, np.int64),
        [run_lengths(mask) for mask in masks],
    )


def run_lengths(mask: np.ndarray) -> np.ndarray:
    """Returns COCO's run lengths of a mask, integer [H, W]."""
    flat = np.concatenate(([0], np.asarray(mask).astype(np.int8).T.reshape(-1)))
    turns = np.flatnonzero(flat[1:] != flat[:-1])
    return np.diff(turns, prepend=0, append=flat.size - 1)
