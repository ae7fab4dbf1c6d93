"""The networks, one folder for each model family. `task.model.type` names the family.

This module does not import TensorFlow until a network or its targets are made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from panoptic_cli.categories import CategoryTable
from panoptic_cli.config.schema import Experiment
from panoptic_cli.models.panoptic_fpn.label_space import label_space_of
from panoptic_cli.models.platform import Platform

if TYPE_CHECKING:
    from PIL import Image

    from panoptic_cli.models.network import PanopticNetwork
    from panoptic_cli.pipeline.batches import Targets

__all__ = ["Platform", "check", "create_network", "example_drawer", "training_targets"]


def check(experiment: Experiment, table: CategoryTable) -> None:
    """Checks that the network has a class for every category.

    Raises:
        ConfigError: it does not; lists the categories.
    """
    label_space_of(experiment, table)


def create_network(experiment: Experiment, table: CategoryTable) -> PanopticNetwork:
    """Builds the network with random weights.

    Raises:
        ConfigError: see `check`.
    """
    from panoptic_cli.models.panoptic_fpn.network import PanopticFPN

    return PanopticFPN(experiment.task, label_space_of(experiment, table))


def training_targets(experiment: Experiment, table: CategoryTable) -> Targets:
    """Returns what computes the training targets of a picture, for `pipeline.batches.training_dataset`.

    Raises:
        ConfigError: see `check`.
    """
    from panoptic_cli.models.panoptic_fpn.targets import PanopticFPNTargets

    return PanopticFPNTargets(experiment.task, label_space_of(experiment, table))


def example_drawer(experiment: Experiment, table: CategoryTable) -> Callable[[Mapping[str, Any]], Image.Image]:
    """Returns a function that draws a training example: a batch of one, as NumPy arrays, with its targets.

    Raises:
        ConfigError: see `check`.
    """
    from panoptic_cli.models.panoptic_fpn.drawing import ExampleDrawer

    return ExampleDrawer(experiment.task, label_space_of(experiment, table))
