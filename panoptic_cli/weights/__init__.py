"""Reading weights into the network: our own checkpoints, and those of tensorflow/models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from panoptic_cli.weights.loaded import Loaded

if TYPE_CHECKING:
    from panoptic_cli.models.panoptic_fpn.network import PanopticFPN

__all__ = ["Loaded", "initialize", "load"]


def load(network: PanopticFPN, source: str) -> Loaded:
    """Loads all weights of a network, from whichever kind of checkpoint it is; told by its content.

    Args:
        network: the built network.
        source: a run directory, a folder of checkpoints, or a checkpoint's prefix; local or gs://.

    Returns:
        What was loaded.

    Raises:
        RunError: there is no checkpoint, or it does not fit the network; lists every variable that does not.
    """
    return _load(network, source, allow_backbone_only=False)


def initialize(network: PanopticFPN, source: str) -> Loaded:
    """Starts a training from a checkpoint: the whole network, or the backbone where it holds a classifier's.

    Args:
        network: the built network.
        source: as for `load`.

    Returns:
        What was loaded.

    Raises:
        RunError: see `load`.
    """
    return _load(network, source, allow_backbone_only=True)


def _load(network: PanopticFPN, source: str, *, allow_backbone_only: bool) -> Loaded:
    from panoptic_cli.weights import checkpoint_files, checkpoints, model_garden

    prefix = checkpoint_files.find_checkpoint(source)
    if checkpoints.is_own(prefix):
        step, averaged = checkpoints.load_network(network, prefix)
        variables, parameters = len(network.variables), network.count_params()
        return Loaded(prefix, variables, parameters, backbone_only=False, step=step, averaged=averaged)
    return model_garden.load(network, prefix, allow_backbone_only=allow_backbone_only)
