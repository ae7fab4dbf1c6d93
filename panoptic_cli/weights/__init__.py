"""Reading weights into the network: our own checkpoints, and those of tensorflow/models."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from panoptic_cli.models.panoptic_fpn import PanopticFPN


def load(network: PanopticFPN, source: str) -> int | None:
    """Loads all weights of a network, from whichever kind of checkpoint it is.

    Args:
        network: the built network.
        source: a run directory, a folder of checkpoints, or a checkpoint's prefix.

    Returns:
        The training step of the weights, None where the checkpoint does not tell.

    Raises:
        RunError: there is no checkpoint, or it does not fit the network; lists every variable that does not.
    """
    from panoptic_cli.training import checkpoints
    from panoptic_cli.weights import model_garden

    prefix = checkpoints.find_checkpoint(source)
    if checkpoints.is_own(prefix):
        return checkpoints.load_network(network, prefix)
    return model_garden.load(network, prefix).step


def initialize(network: PanopticFPN, source: str) -> str:
    """Starts a training from a checkpoint: the whole network, or the backbone where it holds a classifier's.

    Args:
        network: the built network.
        source: as for `load`.

    Returns:
        One line that says what was loaded.

    Raises:
        RunError: see `load`.
    """
    from panoptic_cli.training import checkpoints
    from panoptic_cli.weights import model_garden

    prefix = checkpoints.find_checkpoint(source)
    if checkpoints.is_own(prefix):
        step = checkpoints.load_network(network, prefix)
        return f"Starting from the weights of {prefix} (step {step}, {network.count_params():,} parameters)."
    loaded = model_garden.load(network, prefix, allow_backbone_only=True)
    what = "backbone" if loaded.backbone_only else "network"
    return f"Starting from {prefix}: {what}, {loaded.variables} variables, {loaded.parameters:,} parameters."
