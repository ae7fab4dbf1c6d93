"""Checkpoints: weights, optimizer, random state and step, in TensorFlow's format.

The variables are saved under our own names, not as the object graph of `tf.train.Checkpoint(model=...)`. Under Keras 3
that graph omits the states of seed generators, so dropout and sampling would not resume where they stopped, and it
stores a layer's kernel as `optimizer/_trainable_variables/0`. Here every variable is `network/<path>`,
`optimizer/<path>`, `average/<path>` (moving averages of the network's variables) or `state/<path>` (other variables of
the training model). A layout with names, shapes and order is saved too, so that a mismatch can be reported by name,
and the classes along the axes that depend on them, so that weights can be loaded for other categories.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterable
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from panoptic_cli import storage
from panoptic_cli.errors import RunError, one_line, summarize
from panoptic_cli.weights import checkpoint_files
from panoptic_cli.weights.checkpoint_files import find_checkpoint

_LAYOUT = "layout/.ATTRIBUTES/py_state"


class LoadedNetwork(NamedTuple):
    """Which weights were loaded.

    Attributes:
        step: the training step at which they were saved.
        averaged: whether they are moving averages.
    """

    step: int
    averaged: bool


class _Saved(NamedTuple):
    """A Keras variable and its name in the checkpoint."""

    name: str
    variable: Any


class _Layout(tf.train.experimental.PythonState):
    """The layout of a checkpoint: the step, and names and shapes of the variables of each group in order."""

    def __init__(self, value: dict[str, Any]) -> None:
        self.value = value

    def serialize(self) -> str:
        """Returns the layout as JSON."""
        return json.dumps(self.value)

    def deserialize(self, string: str) -> None:
        """Reads the layout from JSON."""
        self.value = json.loads(string)


class Checkpoints:
    """Saves and restores a training. Create it in the strategy's scope, when everything is built.

    Args:
        directory: the folder of the checkpoints; may be remote.
        model: the training model, with attributes `network` and `averages`.
        optimizer: the built optimizer.
        max_to_keep: how many checkpoints are kept.
        chief: whether this process writes the folder. The other workers of a cluster take part in each save, because
            reading a variable that is averaged over replicas needs all of them, but they throw their files away.

    Raises:
        RunError: TensorFlow's state file in the folder is damaged.
    """

    def __init__(
        self,
        directory: str,
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        *,
        max_to_keep: int = 5,
        chief: bool = True,
    ) -> None:
        network, averages = model.network, model.averages
        known = {id(variable) for variable in (*network.variables, *averages)}
        averaged = network.trainable_variables if averages else []
        self._groups: dict[str, list[_Saved]] = {
            "network": name_variables(network.variables),
            "optimizer": name_variables(optimizer.variables),
            "average": [_Saved(s.name, v) for s, v in zip(name_variables(averaged), averages, strict=True)],
            "state": name_variables(v for v in model.variables if id(v) not in known),
        }
        classes = {path: axis.to_json() for path, axis in network.class_axes().items()}
        described = {name: _describe(saved) for name, saved in self._groups.items()}
        self._layout = _Layout({"step": 0, "classes": classes, **described})
        named = {group: {s.name: _raw(s.variable) for s in saved} for group, saved in self._groups.items()}
        checkpoint = tf.train.Checkpoint(layout=self._layout, **named)
        self._scratch = None if chief else tempfile.TemporaryDirectory()
        self._directory = directory
        place, kept = (directory, max_to_keep) if self._scratch is None else (self._scratch.name, 1)
        try:
            self._manager = tf.train.CheckpointManager(checkpoint, place, max_to_keep=kept)
        except UnicodeDecodeError:  # of the state file; other damage makes it name no checkpoint
            raise _no_newest(directory) from None
        self.saved_step: int | None = None
        self.saved_prefix: str | None = None

    def save(self, step: int) -> str:
        """Writes the checkpoint ckpt-<step> and removes the oldest if there are too many.

        Returns:
            The checkpoint's prefix.

        Raises:
            RunError: the directory cannot be written.
        """
        self._layout.value["step"] = step
        try:
            prefix = self._manager.save(checkpoint_number=step)
        except (OSError, tf.errors.OpError) as error:
            raise RunError(
                f"The checkpoint of step {step} cannot be written to {self._directory}: {one_line(error)}.",
                "Check space and permissions. The same command resumes at the last checkpoint.",
            ) from error
        self.saved_step, self.saved_prefix = step, str(prefix)
        return self.saved_prefix

    def restore_latest(self) -> int:
        """Restores everything from the newest checkpoint.

        Returns:
            Its step; 0, with nothing changed, if there is no checkpoint.

        Raises:
            RunError: the checkpoint is broken, or does not match this model and optimizer.
        """
        prefix = checkpoint_files.latest(self._directory)
        if prefix is None:
            if storage.exists(f"{self._directory}/{checkpoint_files.STATE_FILE}"):  # a restart would lose the run
                raise _no_newest(self._directory)
            return 0
        self.saved_step, self.saved_prefix = _restore(prefix, self._groups), prefix
        return self.saved_step


def _no_newest(directory: str) -> RunError:
    return RunError(
        f"The file {directory}/{checkpoint_files.STATE_FILE} does not name a checkpoint that exists.",
        'Replace its contents by a line such as: model_checkpoint_path: "ckpt-1000". Or give another --model-dir.',
    )


def load_network(network: keras.Model, source: str | os.PathLike[str]) -> LoadedNetwork:
    """Loads the weights of a network: their moving averages if the checkpoint has them.

    Args:
        network: the built network.
        source: a run directory, a folder with checkpoints, or a checkpoint's prefix.

    Returns:
        The step at which the weights were saved, and whether they are averages.

    Raises:
        RunError: the checkpoint does not exist, was not written by `Checkpoints`, or does not match the network.
    """
    prefix = find_checkpoint(source)
    layout = read_layout(prefix)
    mapping = _match_all(prefix, {"network": name_variables(network.variables)}, layout)["network"]
    averaged = {entry["name"] for entry in layout.get("average", [])}
    reader = tf.compat.v1.train.NewCheckpointReader(prefix)
    for name, variable in mapping.items():
        value = read_tensor(reader, prefix, "average" if name in averaged else "network", name)
        variable.assign(tf.cast(value, variable.dtype))  # the network may have another precision
    return LoadedNetwork(int(layout["step"]), bool(averaged))


def is_own(prefix: str) -> bool:
    """Whether a checkpoint was written by panoptic train, judged by its content."""
    try:
        return bool(tf.compat.v1.train.NewCheckpointReader(prefix).has_tensor(_LAYOUT))
    except (tf.errors.OpError, ValueError, RuntimeError, IndexError):
        return True  # unreadable: the attempt to load it gives the message


def _restore(prefix: str, groups: dict[str, list[_Saved]]) -> int:
    layout = read_layout(prefix)
    _read(prefix, _match_all(prefix, groups, layout))
    return int(layout["step"])


def read_layout(prefix: str) -> dict[str, Any]:
    """Returns the layout of a checkpoint: step, classes, and the names and shapes of each group's variables.

    Raises:
        RunError: the checkpoint cannot be read, or was not written by `Checkpoints`.
    """
    try:
        reader = tf.compat.v1.train.NewCheckpointReader(prefix)
        layout = json.loads(reader.get_tensor(_LAYOUT)) if reader.has_tensor(_LAYOUT) else None
    except (tf.errors.OpError, ValueError, RuntimeError, IndexError) as error:
        raise RunError(
            f"The checkpoint {prefix} cannot be read: {one_line(error)}.", "It may be damaged: use an earlier one."
        ) from error
    if layout is None:
        raise RunError(
            f"The checkpoint {prefix} was not written by panoptic train.",
            "To start a new run from it, use panoptic train --init-checkpoint.",
        )
    return dict(layout)


def read_tensor(reader: Any, prefix: str, group: str, name: str) -> np.ndarray:
    """Returns a variable of a checkpoint, given its reader.

    Raises:
        RunError: it cannot be read.
    """
    escaped = name.replace(".", "..").replace("/", ".S")  # as TensorFlow does
    try:
        return np.asarray(reader.get_tensor(f"{group}/{escaped}/.ATTRIBUTES/VARIABLE_VALUE"))
    except (tf.errors.OpError, ValueError, RuntimeError, IndexError) as error:
        raise _damaged(prefix, error) from error


def _damaged(prefix: str, error: Exception) -> RunError:
    return RunError(
        f"The checkpoint {prefix} cannot be restored: {one_line(error)}.", "It may be damaged: use an earlier one."
    )


def _match_all(prefix: str, groups: dict[str, list[_Saved]], layout: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Matches the variables of each group with names in the checkpoint: {group: {name: TensorFlow variable}}."""
    named, problems = {}, []
    for group, saved in groups.items():
        named[group], found = _match(saved, layout.get(group, []))
        problems += [f"{group}: {problem}" for problem in found]
    if problems:
        raise RunError(
            f"The checkpoint {prefix} does not match the configuration: {summarize(problems)}.",
            "Use the configuration with which it was trained.",
        )
    return named


def _read(prefix: str, named: dict[str, dict[str, Any]]) -> None:
    try:
        status = tf.train.Checkpoint(**named).read(prefix)
        status.assert_existing_objects_matched().expect_partial()
    except (tf.errors.OpError, AssertionError, ValueError) as error:
        raise _damaged(prefix, error) from error


def _match(ours: list[_Saved], entries: list[dict[str, Any]]) -> tuple[dict[str, Any], list[str]]:
    """Matches variables with saved names; returns {saved name: variable} and the mismatches."""
    names = [saved.name for saved in ours]
    saved_names = [entry["name"] for entry in entries]
    if set(names) != set(saved_names) and [base_name(n) for n in names] == [base_name(n) for n in saved_names]:
        # Keras numbers unnamed layers and models per process (dense, dense_1, ...). If only such numbers differ, the
        # variables match in the order of their creation.
        names = saved_names
    shapes = {entry["name"]: entry["shape"] for entry in entries}
    problems, mapping = [], {}
    for name, saved in zip(names, ours, strict=True):
        shape = list(saved.variable.shape)
        if name not in shapes:
            problems.append(f"{name} is not in the checkpoint")
        elif shapes[name] != shape:
            problems.append(f"{name} is {shapes[name]} in the checkpoint and {shape} here")
        else:
            mapping[name] = _raw(saved.variable)
    problems += [f"{name} is only in the checkpoint" for name in sorted(shapes.keys() - set(names))]
    return mapping, problems


def name_variables(variables: Iterable[Any]) -> list[_Saved]:
    """Names each variable by its path. The second variable with the same path gets #2, and so on."""
    named: list[_Saved] = []
    seen: dict[str, int] = {}
    for variable in variables:
        count = seen[variable.path] = seen.get(variable.path, 0) + 1
        named.append(_Saved(variable.path if count == 1 else f"{variable.path}#{count}", variable))
    return named


def _describe(group: Iterable[_Saved]) -> list[dict[str, Any]]:
    return [{"name": saved.name, "shape": list(saved.variable.shape)} for saved in group]


def base_name(name: str) -> str:
    """Returns a name without the numbers that Keras gives to unnamed layers."""
    return re.sub(r"_\d+(?=_|/|$)", "", name)


def _raw(variable: Any) -> tf.Variable:
    """Returns the TensorFlow variable of a Keras variable, distributed or not."""
    return variable.value
