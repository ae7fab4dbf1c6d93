"""Reading weights into a network: from our own checkpoints and from those of tensorflow/models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from panoptic_cli.weights.loaded import Loaded

if TYPE_CHECKING:
    from panoptic_cli.models.network import PanopticNetwork

__all__ = ["Loaded", "initialize", "load"]


def load(network: PanopticNetwork, source: str) -> Loaded:
    """Loads all weights of a network. The kind of checkpoint is recognised by its content.

    Args:
        network: the built network.
        source: a run directory, a folder of checkpoints, or a checkpoint's prefix; local or gs://.

    Returns:
        What was loaded.

    Raises:
        RunError: there is no checkpoint, or it does not fit the network; lists every variable that does not.
    """
    return _load(network, source, allow_backbone_only=False)


def initialize(network: PanopticNetwork, source: str) -> Loaded:
    """Loads the weights that a training starts from: the whole network, or the backbone from a classifier's checkpoint.

    Args:
        network: the built network.
        source: as for `load`.

    Returns:
        What was loaded.

    Raises:
        RunError: see `load`.
    """
    return _load(network, source, allow_backbone_only=True)


def _load(network: PanopticNetwork, source: str, *, allow_backbone_only: bool) -> Loaded:
    from panoptic_cli.weights import checkpoints, model_garden

    prefix = checkpoints.find_checkpoint(source)
    if checkpoints.is_own(prefix):
        step, averaged = checkpoints.load_network(network, prefix)
        variables, parameters = len(network.variables), network.count_params()
        return Loaded(prefix, variables, parameters, backbone_only=False, step=step, averaged=averaged)
    return model_garden.load(network, prefix, allow_backbone_only=allow_backbone_only)
