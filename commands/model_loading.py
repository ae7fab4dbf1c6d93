"""Loading the model of a command."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from panoptic_cli.errors import UsageError

if TYPE_CHECKING:
    from panoptic_cli.inference.predictor import LoadedModel
    from panoptic_cli.runs.model_source import ModelSource


def refuse_cluster(verb: str) -> None:
    """Checks that the process is not a worker of a cluster.

    Raises:
        UsageError: TF_CONFIG is set.
    """
    if "TF_CONFIG" in os.environ:
        raise UsageError(f"A single process {verb}, not the workers of TF_CONFIG.", "Unset TF_CONFIG.")


def load(source: ModelSource, gpus: int | None) -> LoadedModel:
    """Loads a model onto the devices of `--gpus`.

    Raises:
        DeviceError: there are fewer GPUs.
        RunError: the checkpoint is missing or does not fit the network.
        TransferError: the checkpoint cannot be fetched.
    """
    from panoptic_cli import models
    from panoptic_cli.startup import import_tensorflow, require_tensorflow

    require_tensorflow()
    checkpoint = source.fetch()
    import_tensorflow(models.prefers_onednn(source.experiment))
    from panoptic_cli.inference.predictor import inference_strategy, load_model

    strategy = inference_strategy(source.experiment, gpus)
    return load_model(source.experiment, source.table, checkpoint, strategy)
