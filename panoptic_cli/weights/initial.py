"""Loading what fits of our own checkpoints into a network with other categories or other heads."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from panoptic_cli.errors import RunError, summarize
from panoptic_cli.models.class_axes import ClassAxis
from panoptic_cli.models.network import PanopticNetwork
from panoptic_cli.weights.checkpoints import base_name, name_variables, read_layout, read_tensor
from panoptic_cli.weights.fitting import Axes, Shape, assign, first_that_fits, fit, missing_backbone
from panoptic_cli.weights.loaded import Loaded


def initialize_from_own(
    network: PanopticNetwork, prefix: str, known: Sequence[Axes], *, ignore_saved: bool = False, strict: bool = False
) -> Loaded:
    """Loads what fits: moving averages if the checkpoint has them.

    Args:
        network: the built network.
        prefix: the checkpoint's prefix.
        known: class axes that the checkpoint may have, by the paths of its variables, for checkpoints that do not say.
        ignore_saved: whether `known` goes before what the checkpoint says.
        strict: whether everything has to fit.

    Raises:
        RunError: the checkpoint cannot be read, or the backbone does not fit; lists all variables that do not.
    """
    layout = read_layout(prefix)
    variables = {saved.name: saved.variable for saved in name_variables(network.variables)}
    shapes = {str(entry["name"]): tuple(entry["shape"]) for entry in layout.get("network", [])}
    names = _pair(list(variables), list(shapes))
    theirs: dict[str, Shape] = {ours: shapes[name] for ours, name in names.items()}
    saved = {name: ClassAxis.from_json(value) for name, value in layout.get("classes", {}).items()}
    candidates = [*([saved] if saved and not ignore_saved else []), *known]
    ours = {name: tuple(variable.shape) for name, variable in variables.items()}
    unused = [name for name in shapes if name not in set(names.values())]
    found = fit(ours, theirs, network.class_axes(), first_that_fits(candidates, theirs), unused)
    problems = found.problems() if strict else missing_backbone(found, backbone_paths(network))
    if problems:
        raise RunError(
            f"The checkpoint {prefix} does not match the configuration: {summarize(problems)}.",
            "Omit --strict-init to load what fits."
            if strict
            else "The backbone has to fit: use the configuration with which it was trained.",
        )
    averaged = {entry["name"] for entry in layout.get("average", [])}
    reader = tf.compat.v1.train.NewCheckpointReader(prefix)

    def read(name: str) -> np.ndarray:
        key = names[name]
        return read_tensor(reader, prefix, "average" if key in averaged else "network", key)

    parameters = assign(variables, found, read)
    count = len(found.whole) + len(found.rows)
    return Loaded(prefix, count, parameters, False, int(layout["step"]), averaged=bool(averaged), fit=found)


def backbone_paths(network: PanopticNetwork) -> set[str]:
    """Returns the paths of the variables of a network's backbone."""
    return {variable.path for layer in network.backbone_layers() for variable in layer}


def _pair(ours: list[str], theirs: list[str]) -> dict[str, str]:
    """Pairs the names of the network with equal names in the checkpoint.

    If all names differ only in the numbers that Keras gives to unnamed layers, they are paired in order, as everywhere.
    """
    if set(ours) != set(theirs) and [*map(base_name, ours)] == [*map(base_name, theirs)]:
        return dict(zip(ours, theirs, strict=True))
    known = set(theirs)
    return {name: name for name in ours if name in known}
