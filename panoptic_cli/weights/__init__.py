"""Loading weights into a network: our own checkpoints, those of tensorflow/models, and Hugging Face's folders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from panoptic_cli.categories import CategoryTable
from panoptic_cli.coco.official_categories import coco_panoptic_categories
from panoptic_cli.config.hugging_face import find_folder
from panoptic_cli.weights.fitting import Axes
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
    from panoptic_cli.weights import checkpoints, model_garden

    folder = find_folder(source)
    if folder is not None:
        from panoptic_cli.weights.hugging_face import load_hugging_face

        return load_hugging_face(network, folder)
    prefix = checkpoints.find_checkpoint(source)
    if checkpoints.is_own(prefix):
        step, averaged = checkpoints.load_network(network, prefix)
        variables, parameters = len(network.variables), network.count_params()
        return Loaded(prefix, variables, parameters, backbone_only=False, step=step, averaged=averaged)
    return model_garden.load_model_garden(network, prefix)


def initialize(
    network: PanopticNetwork,
    source: str,
    *,
    known: Sequence[Axes] = (),
    table: CategoryTable | None = None,
    strict: bool = False,
) -> Loaded:
    """Loads the initial weights for training: what fits, or the backbone from a checkpoint of it alone.

    The backbone has to fit. Of the layers that depend on the classes, the rows of categories with the same name are
    loaded.

    Args:
        network: the built network.
        source: as for `load_weights`.
        known: class axes that the checkpoint may have, in the order in which they are tried. They are used if the
            checkpoint does not have its own, or with a `table`.
        table: the categories of the checkpoint, from which `known` was made; None: those that the checkpoint names.
            A panoptic model of tensorflow/models has those of COCO.
        strict: whether everything has to fit.

    Returns:
        What was loaded.

    Raises:
        RunError: there is no checkpoint, or its backbone does not fit; lists all variables that do not fit.
    """
    from panoptic_cli.weights import checkpoints, initial, model_garden

    folder = find_folder(source)
    if folder is not None:
        from panoptic_cli.weights.hugging_face import initialize_from_hugging_face

        return initialize_from_hugging_face(network, folder, known, strict=strict)
    prefix = checkpoints.find_checkpoint(source)
    if checkpoints.is_own(prefix):
        return initial.initialize_from_own(network, prefix, known, ignore_saved=table is not None, strict=strict)
    theirs = coco_panoptic_categories() if table is None else table
    return model_garden.initialize_from_model_garden(network, prefix, theirs, strict=strict)
