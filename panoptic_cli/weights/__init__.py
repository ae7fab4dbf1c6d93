"""Loading weights into a network: our own checkpoints, those of tensorflow/models, and Hugging Face's folders."""

from __future__ import annotations

from typing import TYPE_CHECKING

from panoptic_cli.config.hugging_face import find_folder
from panoptic_cli.weights.loaded import Loaded

if TYPE_CHECKING:
    from panoptic_cli.models.network import PanopticNetwork

__all__ = ["Loaded", "initialize", "load_weights"]


def load_weights(network: PanopticNetwork, source: str) -> Loaded:
    """Loads all weights of a network. The kind of checkpoint is detected from its content.

    Args:
        network: the built network.
        source: a run directory, a folder of checkpoints, or a checkpoint's prefix, local or gs://; or a local folder in
            Hugging Face's layout.

    Returns:
        What was loaded.

    Raises:
        RunError: there is no checkpoint, or it does not fit the network; lists all variables that do not fit.
    """
    return _load(network, source, allow_backbone_only=False)


def initialize(network: PanopticNetwork, source: str) -> Loaded:
    """Loads the initial weights for training: all of them, or those of the backbone from a checkpoint of it alone.

    Args:
        network: the built network.
        source: as for `load_weights`.

    Returns:
        What was loaded.

    Raises:
        RunError: see `load_weights`.
    """
    return _load(network, source, allow_backbone_only=True)


def _load(network: PanopticNetwork, source: str, *, allow_backbone_only: bool) -> Loaded:
    from panoptic_cli.weights import checkpoints, model_garden

    folder = find_folder(source)
    if folder is not None:
        from panoptic_cli.weights.hugging_face import load_hugging_face

        return load_hugging_face(network, folder, allow_backbone_only=allow_backbone_only)
    prefix = checkpoints.find_checkpoint(source)
    if checkpoints.is_own(prefix):
        step, averaged = checkpoints.load_network(network, prefix)
        variables, parameters = len(network.variables), network.count_params()
        return Loaded(prefix, variables, parameters, backbone_only=False, step=step, averaged=averaged)
    return model_garden.load_model_garden(network, prefix, allow_backbone_only=allow_backbone_only)
