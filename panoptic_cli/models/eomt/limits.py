"""Settings of EoMT that do not fit a data set."""

from __future__ import annotations

from panoptic_cli.config import Experiment
from panoptic_cli.records.sample import DataSample


def data_warnings(experiment: Experiment, sample: DataSample) -> list[str]:
    """Returns what the configuration cannot hold of the sampled pictures, a sentence each, with the keys to change."""
    queries = experiment.task.model.eomt.num_queries
    if sample.most_segments <= queries:
        return []
    return [
        f"There is a picture with {sample.most_segments:,} segments, and the network has {queries:,} queries, each of "
        "which finds one segment. Raise task.model.eomt.num_queries."
    ]
