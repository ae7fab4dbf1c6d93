"""The networks, with one folder for each model family. `task.model.type` names the family.

This module does not import TensorFlow until a network or its targets are created.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from panoptic_cli.categories import CategoryTable
from panoptic_cli.config.schema import Experiment
from panoptic_cli.models.panoptic_fpn import limits
from panoptic_cli.models.panoptic_fpn.label_space import derive_classes, label_space_of
from panoptic_cli.models.platform import Platform
from panoptic_cli.records.sample import DataSample

if TYPE_CHECKING:
    from PIL import Image

    from panoptic_cli.models.network import PanopticNetwork
    from panoptic_cli.pipeline.batches import Targets

__all__ = [
    "Platform",
    "check_categories",
    "create_network",
    "data_warnings",
    "example_drawer",
    "training_targets",
    "with_derived_classes",
]


def check_categories(experiment: Experiment, table: CategoryTable) -> None:
    """Checks that the network has a class for every category.

    Raises:
        ConfigError: categories have no class; lists all of them.
    """
    label_space_of(experiment, table)


def data_warnings(experiment: Experiment, sample: DataSample) -> list[str]:
    """Returns what the configuration cannot hold of the sampled pictures, a sentence each, with the keys to change."""
    return limits.data_warnings(experiment, sample)


def with_derived_classes(experiment: Experiment) -> Experiment:
    """Returns the configuration with a network that takes its classes from the category table, whatever that is."""
    return experiment.model_copy(update={"task": derive_classes(experiment.task)})


def create_network(experiment: Experiment, table: CategoryTable) -> PanopticNetwork:
    """Creates the network with random weights.

    Raises:
        ConfigError: see `check_categories`.
    """
    from panoptic_cli.models.panoptic_fpn.network import PanopticFPN

    return PanopticFPN(experiment.task, label_space_of(experiment, table))


def training_targets(experiment: Experiment, table: CategoryTable) -> Targets:
    """Returns the callable that computes a picture's training targets, for `pipeline.batches.training_dataset`.

    Raises:
        ConfigError: see `check_categories`.
    """
    from panoptic_cli.models.panoptic_fpn.targets import PanopticFPNTargets

    return PanopticFPNTargets(experiment.task, label_space_of(experiment, table))


def example_drawer(experiment: Experiment, table: CategoryTable) -> Callable[[Mapping[str, Any]], Image.Image]:
    """Returns a callable that draws a training example, given as a batch of one with its targets, in NumPy arrays.

    Raises:
        ConfigError: see `check_categories`.
    """
    from panoptic_cli.models.panoptic_fpn.drawing import ExampleDrawer

    return ExampleDrawer(experiment.task, label_space_of(experiment, table))
