"""Settings of EoMT that do not fit a data set."""

from __future__ import annotations

from panoptic_cli.config import Experiment
from panoptic_cli.records.sample import DataSample


def data_warnings(experiment: Experiment, sample: DataSample) -> list[str]:
    """Returns what the configuration cannot hold of the sampled pictures, a sentence each, with the keys to change."""
    queries = experiment.task.model.eomt.num_queries
    most = experiment.task.train_data.parser.max_num_instances
    found = []
    if sample.most_segments > most:
        found.append(
            f"There is a picture with {sample.most_segments:,} segments, and training uses the {most:,} largest of "
            "them. Raise task.train_data.parser.max_num_instances."
        )
    if sample.most_segments > queries:
        found.append(
            f"There is a picture with {sample.most_segments:,} segments, and the network has {queries:,} queries, each "
            "of which finds one segment. Raise task.model.eomt.num_queries."
        )
    return found
