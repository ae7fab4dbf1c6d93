"""A small network with COCO's categories and random weights, as a checkpoint that a user may have."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest


@pytest.fixture(scope="session")
def coco_checkpoint(
    coco100: Path, tiny_network: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, ...]:
    """Options that name a checkpoint of step 7 whose moving averages differ from its weights."""
    import keras

    from panoptic_cli import config, models
    from panoptic_cli.categories import read_categories
    from panoptic_cli.weights.checkpoints import Checkpoints

    # Scores are random. Some detections exceed this threshold, so that maps contain things and stuff.
    threshold = "task.model.panoptic_segmentation_generator={score_threshold: 0.05, stuff_area_threshold: 256}"
    settings = (*tiny_network, threshold)
    categories = coco100 / "annotations" / "panoptic_val2017.json"
    experiment = config.load_experiment("panoptic_fpn_shapes", settings=settings)
    keras.utils.set_random_seed(7)
    network = models.create_network(experiment, read_categories(categories))
    generator = np.random.default_rng(5)
    for variable in network.trainable_variables:
        # Final layers are initialised near zero. Here, their outputs must depend on the picture and the position.
        if variable.path.endswith("kernel") and any(
            w in variable.path for w in ("classifier", "regressor", "segmentation")
        ):
            scale = 0.15 if "rpn" in variable.path else 1.5  # larger offsets would move all proposals off the picture
            fan_in = np.prod(variable.shape[:-1])
            variable.assign(scale / np.sqrt(fan_in) * generator.standard_normal(variable.shape))
    averages = [
        keras.Variable(variable.numpy(), name=f"average_{i}") for i, variable in enumerate(network.trainable_variables)
    ]
    for variable in network.trainable_variables:
        variable.assign(variable.value * 0.5)
    model = SimpleNamespace(network=network, averages=averages, variables=[*network.variables, *averages])
    folder = tmp_path_factory.mktemp("coco_checkpoint")
    prefix = Checkpoints(str(folder), model, SimpleNamespace(variables=[])).save(7)
    options = ("--checkpoint", prefix, "--experiment", "panoptic_fpn_shapes", "--categories", str(categories))
    return *options, *(word for setting in settings for word in ("--set", setting))
