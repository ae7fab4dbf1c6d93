"""The label space that a configuration and a category table decide together."""

from __future__ import annotations

from panoptic_cli.categories import CategoryTable, LabelSpace
from panoptic_cli.config.schema import Experiment


def label_space_of(experiment: Experiment, table: CategoryTable) -> LabelSpace:
    """Builds the classes of the heads.

    Args:
        experiment: `task.model` has the offset and the sizes of the heads, where they are fixed.
        table: the data set's categories.

    Raises:
        ConfigError: a category has no class in heads of the configured sizes; lists all of them.
    """
    model = experiment.task.model
    return LabelSpace.create(table, model.stuff_classes_offset, model.num_classes, model.segmentation_model.num_classes)
