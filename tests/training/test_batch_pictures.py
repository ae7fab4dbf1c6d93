"""The pictures of a step, found again from the configuration alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from panoptic_cli import models
from panoptic_cli.config import Experiment, load_experiment
from panoptic_cli.pipeline.batches import training_dataset
from panoptic_cli.runs.categories import load_categories
from panoptic_cli.training.batch_pictures import describe_pictures, pictures_of_steps


def experiment_on(folder: Path, tiny_network: tuple[str, ...]) -> Experiment:
    return load_experiment(
        "panoptic_fpn_shapes",
        settings=[*tiny_network, "task.train_data.parser.aug_rand_hflip=no"],
        options=[
            ("task.train_data.input_path", f"{folder}/train-*"),
            ("task.train_data.global_batch_size", 3),
        ],
    )


def test_the_pictures_of_a_step_are_those_of_its_batch(shapes_records: Path, tiny_network: tuple[str, ...]) -> None:
    # Without augmentation a picture can be told by its pixels, whatever step it is in.
    experiment = experiment_on(shapes_records, tiny_network)
    targets = models.training_targets(experiment, load_categories(experiment))
    batches = training_dataset(experiment, targets, batch_size=3, seed=0)
    of_picture: dict[str, np.ndarray] = {}
    for step, batch in enumerate(batches.take(9), start=1):  # more than two epochs of 12 pictures
        ids = pictures_of_steps(experiment, step, step)
        assert len(ids) == 3
        for name, image in zip(ids, batch["images"].numpy(), strict=True):
            np.testing.assert_array_equal(image, of_picture.setdefault(name, image))
    assert len(of_picture) == 12
    assert pictures_of_steps(experiment, 2, 3) == [
        *pictures_of_steps(experiment, 2, 2),
        *pictures_of_steps(experiment, 3, 3),
    ]
    first = ", ".join(pictures_of_steps(experiment, 1, 1))
    assert describe_pictures(experiment, 1, 1) == f"Pictures of step 1: {first}."


def test_records_that_are_gone(tmp_path: Path, tiny_network: tuple[str, ...]) -> None:
    said = describe_pictures(experiment_on(tmp_path, tiny_network), 1, 2)
    assert said.startswith(
        f"The pictures of steps 1 to 2 cannot be found: No training records match {tmp_path}/train-*."
    )
