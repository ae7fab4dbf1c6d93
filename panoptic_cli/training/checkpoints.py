"""Checkpoints: weights, optimizer, random state and step, in TensorFlow's format.

The variables are saved under names of our own, not as the object graph of `tf.train.Checkpoint(model=...)`:
under Keras 3 that graph leaves out the states of seed generators (dropout and sampling would not go on where
they stopped), and files a layer's kernel under `optimizer/_trainable_variables/0`. Here every variable is
`network/<path>`, `optimizer/<path>` or `state/<path>` (what the training model has besides the network), and
a record of names, shapes and order is saved along, so that a mismatch is told by name.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterable, Sequence
from typing import Any

import keras
import tensorflow as tf

from panoptic_cli.errors import RunError, summarize
from panoptic_cli.training import storage
from panoptic_cli.training.run_directory import RunDirectory

_LAYOUT = "layout/.ATTRIBUTES/py_state"


class _Layout(tf.train.experimental.PythonState):
    """The record that describes a checkpoint: the step, and names and shapes of each group in order."""

    def __init__(self, value: dict[str, Any]) -> None:
        self.value = value

    def serialize(self) -> str:
        """Returns the record as JSON."""
        return json.dumps(self.value)

    def deserialize(self, string: str) -> None:
        """Takes the record over from JSON."""
        self.value = json.loads(string)


class Checkpoints:
    """Saves and restores a training; create it in the strategy's scope when everything is built.

    Args:
        directory: where the checkpoints go; may be remote.
        model: the training model, with attribute `network`.
        optimizer: the built optimizer.
        max_to_keep: how many checkpoints stay.
        chief: whether this process writes. The other workers of a multi-worker training take part in each
            save, because reading a variable that is averaged over replicas needs all of them, and throw
            theirs away.
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
        network = model.network
        known = {id(variable) for variable in network.variables}
        self._groups: dict[str, Sequence[Any]] = {
            "network": network.variables,
            "optimizer": optimizer.variables,
            "state": [v for v in model.variables if id(v) not in known],
        }
        self._layout = _Layout({"step": 0, **{name: _describe(variables) for name, variables in self._groups.items()}})
        named = {
            group: dict(zip([e["name"] for e in self._layout.value[group]], map(_raw, variables), strict=True))
            for group, variables in self._groups.items()
        }
        checkpoint = tf.train.Checkpoint(layout=self._layout, **named)
        self._scratch = None if chief else tempfile.TemporaryDirectory()
        self._directory = directory
        self._manager = tf.train.CheckpointManager(
            checkpoint, directory if self._scratch is None else self._scratch.name, max_to_keep=max_to_keep
        )
        self.saved_step: int | None = None

    def save(self, step: int) -> str:
        """Writes checkpoint ckpt-<step>; an old one goes when there are too many.

        Returns:
            The checkpoint's prefix.

        Raises:
            RunError: the directory cannot be written.
        """
        self._layout.value["step"] = step
        try:
            prefix = self._manager.save(checkpoint_number=step)
        except (OSError, tf.errors.OpError) as error:
            reason = " ".join(str(error).split())[:300]
            raise RunError(
                f"The checkpoint of step {step} cannot be written to {self._directory}: {reason}.",
                "Check space and permissions; the same command resumes at the last checkpoint.",
            ) from error
        self.saved_step = step
        return str(prefix)

    def restore_latest(self) -> int:
        """Restores everything from the newest checkpoint.

        Returns:
            Its step; 0, with nothing changed, where there is no checkpoint.

        Raises:
            RunError: the checkpoint is broken, or does not match this model and optimizer.
        """
        prefix = tf.train.latest_checkpoint(self._directory)
        if prefix is None:
            if storage.exists(f"{self._directory}/checkpoint"):  # to start over silently would lose the run
                raise RunError(
                    f"The newest checkpoint of {self._directory} is missing.",
                    "Name one that is there in the file checkpoint, or give another --model-dir.",
                )
            return 0
        self.saved_step = _restore(prefix, self._groups)
        return self.saved_step


def load_network(network: keras.Model, source: str | os.PathLike[str]) -> int:
    """Loads the weights of a network, for evaluation, export and prediction.

    Args:
        network: the built network.
        source: a run directory, a directory of checkpoints, or a checkpoint's prefix.

    Returns:
        The step at which the weights were saved.

    Raises:
        RunError: there is no such checkpoint, it is not one of ours, or it does not match the network.
    """
    return _restore(find_checkpoint(source), {"network": network.variables})


def find_checkpoint(source: str | os.PathLike[str]) -> str:
    """Returns the prefix of the checkpoint that a run directory, a checkpoint directory or a prefix names.

    Raises:
        RunError: there is none.
    """
    path = storage.normalize(os.fspath(source))
    path = re.sub(r"\.(index|data-\d{5}-of-\d{5})$", "", path)
    prefix = path if storage.exists(path + ".index") else None
    if prefix is None and storage.is_directory(path):
        prefix = RunDirectory(path).latest_checkpoint() or tf.train.latest_checkpoint(path)
    if prefix is None:
        raise RunError(
            f"There is no checkpoint at {path}.",
            "Give a run directory, its checkpoints folder, or a prefix such as RUN/checkpoints/ckpt-1000.",
        )
    return str(prefix)


def is_own(prefix: str) -> bool:
    """Whether a checkpoint was written by panoptic train; told by its content."""
    try:
        return bool(tf.compat.v1.train.NewCheckpointReader(prefix).has_tensor(_LAYOUT))
    except (tf.errors.OpError, ValueError, RuntimeError, IndexError):
        return True  # unreadable: loading it as our own gives the message


def _restore(prefix: str, groups: dict[str, Sequence[Any]]) -> int:
    try:
        reader = tf.compat.v1.train.NewCheckpointReader(prefix)
        layout = json.loads(reader.get_tensor(_LAYOUT)) if reader.has_tensor(_LAYOUT) else None
    except (tf.errors.OpError, ValueError, RuntimeError, IndexError) as error:
        reason = " ".join(str(error).split())[:300]
        raise RunError(
            f"The checkpoint {prefix} cannot be read: {reason}.", "It may be damaged: use an earlier one."
        ) from error
    if layout is None:
        raise RunError(
            f"The checkpoint {prefix} was not written by panoptic train.",
            "Other checkpoints can start a training: --init-checkpoint.",
        )
    named, problems = {}, []
    for group, variables in groups.items():
        mapping, found = _match(variables, layout[group])
        named[group] = mapping
        problems += [f"{group}: {problem}" for problem in found]
    if problems:
        raise RunError(
            f"The checkpoint {prefix} does not match the configuration: {summarize(problems)}.",
            "Use the configuration that it was trained with.",
        )
    try:
        status = tf.train.Checkpoint(**named).read(prefix)
        status.assert_existing_objects_matched().expect_partial()
    except (tf.errors.OpError, AssertionError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise RunError(
            f"The checkpoint {prefix} cannot be restored: {reason}.", "It may be damaged: use an earlier one."
        ) from error
    return int(layout["step"])


def _match(variables: Sequence[Any], saved: list[dict[str, Any]]) -> tuple[dict[str, Any], list[str]]:
    """Pairs variables with saved names; returns {saved name: variable} and what does not fit."""
    ours = _describe(variables)
    names = [entry["name"] for entry in ours]
    saved_names = [entry["name"] for entry in saved]
    if set(names) != set(saved_names) and [_base(n) for n in names] == [_base(n) for n in saved_names]:
        # Keras numbers unnamed layers and models per process (dense, dense_1, ...). Where nothing but such
        # numbers differs, the order of creation pairs the variables.
        ours = [{**entry, "name": name} for entry, name in zip(ours, saved_names, strict=True)]
    shapes = {entry["name"]: entry["shape"] for entry in saved}
    problems, mapping = [], {}
    for entry, variable in zip(ours, variables, strict=True):
        name = entry["name"]
        if name not in shapes:
            problems.append(f"{name} is not in the checkpoint")
        elif shapes[name] != entry["shape"]:
            problems.append(f"{name} is {shapes[name]} in the checkpoint and {entry['shape']} here")
        else:
            mapping[name] = _raw(variable)
    unused = shapes.keys() - {entry["name"] for entry in ours}
    problems += [f"{name} is in the checkpoint only" for name in sorted(unused)]
    return mapping, problems


def _describe(variables: Iterable[Any]) -> list[dict[str, Any]]:
    """Returns name (made unique in order) and shape of each variable."""
    entries, seen = [], {}  # type: ignore[var-annotated]
    for variable in variables:
        count = seen[variable.path] = seen.get(variable.path, 0) + 1
        name = variable.path if count == 1 else f"{variable.path}#{count}"
        entries.append({"name": name, "shape": list(variable.shape)})
    return entries


def _base(name: str) -> str:
    return re.sub(r"_\d+(?=_|/|$)", "", name)


def _raw(variable: Any) -> tf.Variable:
    """The TensorFlow variable, distributed or not, behind a Keras variable."""
    return variable.value
