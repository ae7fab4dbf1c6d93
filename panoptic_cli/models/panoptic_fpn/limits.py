"""Settings of Panoptic FPN that do not fit a data set."""

from __future__ import annotations

import numpy as np

from panoptic_cli.config import Experiment
from panoptic_cli.records.sample import DataSample

_MANY = 0.5  # of the stuff segments


def data_warnings(experiment: Experiment, sample: DataSample) -> list[str]:
    """Returns what the configuration cannot hold of the sampled pictures, a sentence each, with the keys to change."""
    task, found = experiment.task, []
    for key, limit, consequence in (
        ("task.train_data.parser.max_num_instances", task.train_data.parser.max_num_instances, "training uses"),
        (
            "task.model.detection_generator.max_num_detections",
            task.model.detection_generator.max_num_detections,
            "a prediction has at most",
        ),
    ):
        if sample.most_objects > limit:
            found.append(
                f"There is a picture with {sample.most_objects:,} objects, and {consequence} {limit:,} of them. "
                f"Raise {key}."
            )
    key = "task.model.panoptic_segmentation_generator.stuff_area_threshold"
    threshold = task.model.panoptic_segmentation_generator.stuff_area_threshold
    dropped = float(np.mean(sample.stuff_areas <= threshold)) if len(sample.stuff_areas) else 0.0
    if dropped >= _MANY:
        found.append(
            f"{dropped:.0%} of the stuff segments are not larger than {threshold:,.0f} pixels, and predictions of that "
            f"size are dropped. Lower {key}."
        )
    return found
