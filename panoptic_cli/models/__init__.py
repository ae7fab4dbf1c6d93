"""The networks, with one folder for each model family. `task.model.type` names the family.

This module does not import TensorFlow until a network or its targets are created.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from panoptic_cli import config
from panoptic_cli.categories import CategoryTable
from panoptic_cli.config.schema import Experiment
from panoptic_cli.errors import ConfigError
from panoptic_cli.models.class_axes import ClassAxis
from panoptic_cli.models.eomt import class_layers as eomt_classes
from panoptic_cli.models.eomt import limits as eomt_limits
from panoptic_cli.models.panoptic_fpn import class_layers as panoptic_fpn_classes
from panoptic_cli.models.panoptic_fpn import limits as panoptic_fpn_limits
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
    "class_axes",
    "create_network",
    "data_warnings",
    "example_drawer",
    "input_size",
    "input_size_key",
    "prefers_onednn",
    "training_targets",
    "with_derived_classes",
    "with_input_size",
]


def input_size(experiment: Experiment) -> tuple[int, int]:
    """Returns (height, width) of the network's input in pixels."""
    model = experiment.task.model
    return (model.eomt.image_size,) * 2 if model.type == "eomt" else model.input_size[:2]


def input_size_key(experiment: Experiment) -> str:
    """Returns the key of the configuration that has the size of the network's input."""
    return "task.model.eomt.image_size" if experiment.task.model.type == "eomt" else "task.model.input_size"


def with_input_size(experiment: Experiment, height: int, width: int) -> Experiment:
    """Returns the configuration with another size of the network's input, in pixels.

    Raises:
        ConfigError: the network cannot have it.
    """
    tree = experiment.model_dump(mode="json")
    if experiment.task.model.type == "eomt" and height != width:
        raise ConfigError(f"The input of this network is a square, not {height} x {width}.", "Give one number.")
    value = height if experiment.task.model.type == "eomt" else [height, width, 3]
    config.set_key(tree, input_size_key(experiment), value)
    return config.validate(tree, f"an input of {height} x {width}")


def prefers_onednn(experiment: Experiment, *, training: bool = False) -> bool:
    """Returns whether to use oneDNN where TensorFlow does not use it by itself (CPUs without AVX-512).

    In float32, EoMT's products of large matrices take two thirds of the time, and a training step of Panoptic FPN four
    fifths; losses and EoMT's results agree with the originals as closely. At inference, more of Panoptic FPN's
    detections of nearly equal scores would change places with the reference's than without oneDNN.

    Args:
        experiment: the configuration.
        training: whether the network is trained.
    """
    return experiment.runtime.mixed_precision_dtype == "float32" and (training or experiment.task.model.type == "eomt")


def rounds_variables(experiment: Experiment) -> bool:
    """Returns whether an inference in 16 bits can hold the network's variables in 16 bits, with the same results.

    EoMT rounds its variables wherever it computes in 16 bits, and has layers that are float32 whatever the policy. In
    Panoptic FPN, the statistics of batch normalisation have to stay in float32.
    """
    return experiment.task.model.type == "eomt"


def check_categories(experiment: Experiment, table: CategoryTable) -> None:
    """Checks that the network has a class for every category.

    Raises:
        ConfigError: categories have no class; lists all of them.
    """
    if experiment.task.model.type == "eomt":
        return  # a class for each category, in the order of the table
    label_space_of(experiment, table)


def class_axes(experiment: Experiment, table: CategoryTable) -> dict[str, ClassAxis]:
    """Returns `PanopticNetwork.class_axes` of a network that is not there, such as that of a checkpoint.

    Raises:
        ConfigError: see `check_categories`.
    """
    if experiment.task.model.type == "eomt":
        return eomt_classes.class_axes(table)
    return panoptic_fpn_classes.class_axes(label_space_of(experiment, table))


def data_warnings(experiment: Experiment, sample: DataSample) -> list[str]:
    """Returns what the configuration cannot hold of the sampled pictures, a sentence each, with the keys to change."""
    limits = eomt_limits if experiment.task.model.type == "eomt" else panoptic_fpn_limits
    return limits.data_warnings(experiment, sample)


def with_derived_classes(experiment: Experiment) -> Experiment:
    """Returns the configuration with a network that takes its classes from the category table, whatever that is."""
    if experiment.task.model.type == "eomt":
        return experiment
    return experiment.model_copy(update={"task": derive_classes(experiment.task)})


def create_network(experiment: Experiment, table: CategoryTable) -> PanopticNetwork:
    """Creates the network with random weights.

    Raises:
        ConfigError: see `check_categories`.
    """
    if experiment.task.model.type == "eomt":
        from panoptic_cli.models.eomt.network import Eomt

        trainer = experiment.trainer
        return Eomt(experiment.task.model.eomt, table, trainer.train_steps, recompute=trainer.recompute)
    from panoptic_cli.models.panoptic_fpn.network import PanopticFPN

    return PanopticFPN(experiment.task, label_space_of(experiment, table))


def training_targets(experiment: Experiment, table: CategoryTable) -> Targets:
    """Returns the callable that computes a picture's training targets, for `pipeline.batches.training_dataset`.

    Raises:
        ConfigError: see `check_categories`.
    """
    if experiment.task.model.type == "eomt":
        from panoptic_cli.models.eomt.targets import EomtTargets

        return EomtTargets(experiment.task, table)
    from panoptic_cli.models.panoptic_fpn.targets import PanopticFPNTargets

    return PanopticFPNTargets(experiment.task, label_space_of(experiment, table))


def example_drawer(experiment: Experiment, table: CategoryTable) -> Callable[[Mapping[str, Any]], Image.Image]:
    """Returns a callable that draws a training example, given as a batch of one with its targets, in NumPy arrays.

    Raises:
        ConfigError: see `check_categories`.
    """
    if experiment.task.model.type == "eomt":
        from panoptic_cli.models.eomt import drawing

        return drawing.ExampleDrawer(experiment.task.model.eomt, table)
    from panoptic_cli.models.panoptic_fpn.drawing import ExampleDrawer

    return ExampleDrawer(experiment.task, label_space_of(experiment, table))
