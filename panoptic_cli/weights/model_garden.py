"""Checkpoints of tensorflow/models (official/projects/panoptic and official/vision's ResNet), by their object graph.

A TensorFlow 2 checkpoint stores the graph of Python objects that owned the variables. A variable is found by following
attribute names from the root; the object at the end of the path has the variable's key in the file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import trackable_object_graph_pb2

from panoptic_cli.categories import CategoryTable
from panoptic_cli.errors import RunError, one_line, summarize
from panoptic_cli.models.class_axes import ClassAxis
from panoptic_cli.models.network import PanopticNetwork
from panoptic_cli.weights.fitting import Fit, assign, first_that_fits, fit, missing_backbone
from panoptic_cli.weights.loaded import Loaded

Parts: TypeAlias = dict[str, dict[str, Any]]

_GRAPH_KEY = "_CHECKPOINTABLE_OBJECT_GRAPH"
_BACKBONE = "backbone"


def load_model_garden(network: PanopticNetwork, prefix: str) -> Loaded:
    """Loads a checkpoint into the network. Nothing changes unless everything fits.

    Args:
        network: the built network.
        prefix: the checkpoint's prefix, local or gs://.

    Raises:
        RunError: the file cannot be read, or variables are missing, unexpected or of another shape; lists all of them.
    """
    graph, parts, found = _compare(network, prefix)
    if not found.complete:
        raise _misfit(prefix, found.problems())
    return _assign(network, graph, parts, found)


def initialize_from_model_garden(
    network: PanopticNetwork, prefix: str, table: CategoryTable, *, strict: bool = False
) -> Loaded:
    """Loads what fits of a checkpoint: of a panoptic model, or the backbone from a classification ResNet.

    Args:
        network: the built network.
        prefix: the checkpoint's prefix, local or gs://.
        table: the categories of a panoptic model.
        strict: whether everything has to fit.

    Raises:
        RunError: the file cannot be read, or the backbone does not fit; lists all variables that do not.
    """
    graph, parts, found = _compare(network, prefix, table, allow_backbone_only=not strict)
    backbone_only = list(parts) == [_BACKBONE]
    problems = found.problems() if strict or backbone_only else missing_backbone(found, parts[_BACKBONE])
    if problems:
        raise _misfit(prefix, problems)
    return _assign(network, graph, parts, found, backbone_only=backbone_only)


def _compare(
    network: PanopticNetwork, prefix: str, table: CategoryTable | None = None, *, allow_backbone_only: bool = False
) -> tuple[_ObjectGraph, Parts, Fit]:
    """Reads the checkpoint's object graph and compares it with the network, or with its backbone.

    Args:
        network: the built network.
        prefix: the checkpoint.
        table: the categories of the checkpoint; None: compare the shapes only.
        allow_backbone_only: whether to accept the checkpoint of a classification ResNet.

    Returns:
        The graph, the parts of the network that the checkpoint is compared with, and what of them fits, by the paths
        in the checkpoint.
    """
    parts = network.model_garden_variables()
    if not parts:
        raise RunError(f"{prefix} is not a checkpoint of this type of model.", "Check task.model.type.")
    graph = _ObjectGraph(prefix)
    root = graph.find_model()
    # A checkpoint without heads is that of a classifier, whose ResNet is the backbone.
    if allow_backbone_only and all(graph.child(root, part) is None for part in parts if part != _BACKBONE):
        parts = {_BACKBONE: parts[_BACKBONE]}
    expected = _by_path(parts)
    keys = {path: graph.variable_key(root, path) for path in expected}
    shapes = {path: tuple(graph.shape(key)) for path, key in keys.items() if key is not None}
    unused = [p for part in parts for p in graph.variable_paths(root, part) if p not in expected]
    ours = {path: tuple(variable.shape) for path, variable in expected.items()}
    if table is None:
        return graph, parts, fit(ours, shapes, {}, None, unused)

    def by_path(axes: Mapping[str, ClassAxis]) -> dict[str, ClassAxis]:
        return {path: axes[variable.path] for path, variable in expected.items() if variable.path in axes}

    our_axes = by_path(network.class_axes())
    axes = first_that_fits([by_path(network.model_garden_class_axes(table))], shapes, padded=True)
    return graph, parts, fit(ours, shapes, our_axes, axes, unused)


def _by_path(parts: Parts) -> dict[str, Any]:
    return {path: variable for part in parts.values() for path, variable in part.items()}


def _misfit(prefix: str, problems: list[str]) -> RunError:
    return RunError(
        f"The checkpoint {prefix} does not fit the configured network: {summarize(problems, len(problems))}.",
        "Check the backbone, the levels and the numbers of classes (--set task.model...).",
    )


def _assign(
    network: PanopticNetwork, graph: _ObjectGraph, parts: Parts, found: Fit, *, backbone_only: bool = False
) -> Loaded:
    """Assigns what fits. Everything is read before the first variable is assigned."""
    root = graph.find_model()

    def read(path: str) -> np.ndarray:
        key = graph.variable_key(root, path)
        assert key is not None, "it has a shape"
        return graph.read(key)

    parameters = assign(_by_path(parts), found, read)
    loaded = len(found.whole) + len(found.rows)
    return Loaded(graph.prefix, loaded, parameters, backbone_only, graph.step(), fit=found)


class _ObjectGraph:
    """The object graph of a checkpoint file and its tensors."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        try:
            self._reader = tf.train.load_checkpoint(prefix)
            proto = trackable_object_graph_pb2.TrackableObjectGraph()
            proto.ParseFromString(self._reader.get_tensor(_GRAPH_KEY))
        except Exception as error:  # the reader raises a different class for each kind of damage
            raise RunError(
                f"The checkpoint {prefix} cannot be read as an object-based TensorFlow 2 checkpoint: "
                f"{one_line(error)}.",
                "Choose a checkpoint of panoptic train or of tensorflow/models.",
            ) from None
        self._nodes = proto.nodes
        self._shapes = self._reader.get_variable_to_shape_map()

    def child(self, node: int, name: str) -> int | None:
        """Returns the child of `node` with an attribute name, or None."""
        for reference in self._nodes[node].children:
            if reference.local_name == name:
                return int(reference.node_id)
        return None

    def find_model(self) -> int:
        """Returns the node whose attributes are the parts of the network."""
        model = self.child(0, "model")
        for node in (0, model):
            if node is not None and self.child(node, _BACKBONE) is not None:
                return node
        raise RunError(
            f"The checkpoint {self.prefix} has no 'backbone'.",
            "Choose a checkpoint of panoptic train, or of tensorflow/models: a panoptic model or a ResNet classifier.",
        )

    def variable_key(self, node: int, path: str) -> str | None:
        """Follows a path of attribute names and returns the key of the variable at its end."""
        current: int | None = node
        for name in path.split("/"):
            current = self.child(current, name) if current is not None else None
        if current is None:
            return None
        for attribute in self._nodes[current].attributes:
            if attribute.name == "VARIABLE_VALUE":
                return str(attribute.checkpoint_key)
        return None

    def variable_paths(self, node: int, part: str) -> Iterator[str]:
        """Yields the shortest path of every variable below a part of the network."""
        start = self.child(node, part)
        if start is None:
            return
        seen, queue = {start}, [(start, part)]
        while queue:
            current, path = queue.pop(0)
            if any(a.name == "VARIABLE_VALUE" for a in self._nodes[current].attributes):
                yield path
            # Functional models list a layer under several names; layer_with_weights-N is the stable one.
            children = sorted(
                self._nodes[current].children, key=lambda c: not c.local_name.startswith("layer_with_weights")
            )
            for reference in children:
                if reference.node_id not in seen:
                    seen.add(reference.node_id)
                    queue.append((reference.node_id, f"{path}/{reference.local_name}"))

    def shape(self, key: str) -> list[int]:
        """Returns the shape of a stored tensor."""
        return list(self._shapes[key])

    def read(self, key: str) -> np.ndarray:
        """Returns a stored tensor.

        Raises:
            RunError: the file that contains it is missing or damaged.
        """
        try:
            return np.asarray(self._reader.get_tensor(key))
        except (tf.errors.OpError, ValueError, RuntimeError, IndexError) as error:
            raise RunError(
                f"The checkpoint {self.prefix} cannot be read: {one_line(error)}.",
                "It may be damaged. Download or copy it again.",
            ) from None

    def step(self) -> int | None:
        """Returns the global step, if it is stored."""
        for name in ("global_step", "optimizer/iter", "optimizer/iterations"):
            key = self.variable_key(0, name)
            if key is not None and key in self._shapes:
                return int(self.read(key))
        return None
