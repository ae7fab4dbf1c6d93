"""Prediction on pictures: overlays, panoptic PNGs and one JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import tensorflow as tf

from panoptic_cli import console
from panoptic_cli.datasets.preprocessing import preprocess
from panoptic_cli.errors import DataError
from panoptic_cli.evaluation.coco_ap import paste_masks_rle
from panoptic_cli.evaluation.predictions import PredictionWriter
from panoptic_cli.files import atomic_path
from panoptic_cli.inference import LoadedModel, Predictor
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


def predict_pictures(
    model: LoadedModel,
    pictures: Sequence[Path],
    output_dir: Path,
    *,
    score_threshold: float | None = None,
    alpha: float = 0.5,
) -> PredictionSummary:
    """Predicts pictures one after another; a broken one is noted and the rest goes on.

    Args:
        model: the network.
        pictures: files.
        output_dir: gets overlay/NAME.png, pred/NAME.png, pred.json (COCO panoptic) and detections.json.
        score_threshold: detections written to detections.json have a greater score; None takes all.
        alpha: opacity of the overlay's colours, 0..1.

    Returns:
        What was written and what failed.
    """
    predictor = Predictor(model)
    summary = PredictionSummary()
    names: set[str] = set()
    with (
        PredictionWriter(output_dir, model.table) as writer,
        console.progress("Predicting", len(pictures)) as advance,
    ):
        for image_id, path in enumerate(pictures, start=1):
            try:
                pixels = read_picture(path)
            except DataError as error:
                summary.failed[str(path)] = error.message
                console.warn(error.message)
                advance()
                continue
            image, info = preprocess(tf.constant(pixels), model.input_size)
            prediction = next(predictor(image[None], info[None]))
            writer.add(image_id, path.name, prediction.category_map, prediction.instance_map)
            known = np.isin(prediction.category_ids, [c.id for c in model.table.things])
            if score_threshold is not None:
                known &= prediction.scores > score_threshold
            boxes = prediction.boxes[known]
            masks = paste_masks_rle(prediction.masks[known], boxes, *pixels.shape[:2])
            writer.add_detections(image_id, boxes, prediction.scores[known], prediction.category_ids[known], masks)
            drawn = draw_panoptic(
                pixels,
                prediction.category_map,
                prediction.instance_map,
                model.table,
                scores=dict(enumerate(prediction.scores.tolist(), start=1)),
                alpha=alpha,
            )
            name = path.stem if path.stem not in names else f"{path.stem}-{image_id}"
            names.add(name)
            overlay = output_dir / "overlay" / f"{name}.png"
            with atomic_path(overlay) as partial:
                drawn.save(partial, format="PNG")
            summary.overlays.append(overlay)
            advance()
    return summary
