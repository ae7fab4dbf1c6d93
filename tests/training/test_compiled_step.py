"""The training step compiled by XLA, as a TPU runs it: static shapes, and a kernel for every operation."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from panoptic_cli import models
from panoptic_cli.categories import CategoryTable
from panoptic_cli.config import load_experiment
from panoptic_cli.demo.shapes import CATEGORIES
from panoptic_cli.pipeline.batches import training_dataset
from panoptic_cli.training.schedules import build_optimizer
from panoptic_cli.training.step import TrainingModel

TABLE = CategoryTable.from_list(CATEGORIES, "shapes")
# All proposals and boxes are used. Otherwise rounding would choose other samples.
EVERYTHING = {
    "panoptic_fpn_shapes": (
        "task.model.input_size=[64,64,3]",
        "task.model.roi_sampler.num_sampled_rois=80",
        "task.model.mask_sampler.num_sampled_masks=80",
    ),
    "panoptic_fpn_coco": (
        "task.model.input_size=[128,128,3]",
        "task.model.stuff_classes_offset=null",
        "task.model.num_classes=null",
        "task.model.segmentation_model.num_classes=null",
        "task.model.roi_generator.num_proposals=100",
        "task.model.roi_sampler.num_sampled_rois=210",
        "task.model.mask_sampler.num_sampled_masks=210",
    ),
}
Step = tuple[dict[str, float], list[np.ndarray], list[str]]


def one_step(preset: str, records: Path, compiled: bool, brighter: float = 1.0) -> Step:
    """Returns the logs of one step from fixed weights, the change of each variable, and the variables' names."""
    settings = [
        *EVERYTHING[preset],
        "task.model.roi_sampler.foreground_fraction=1.0",
        f"task.train_data.input_path={records}/train-*",
        f"runtime.enable_xla={compiled}",
    ]
    experiment = load_experiment(preset, settings=settings)
    batch = next(iter(training_dataset(experiment, models.training_targets(experiment, TABLE), batch_size=2, seed=1)))
    keras.utils.set_random_seed(0)
    model = TrainingModel(models.create_network(experiment, TABLE), experiment, "xla" if compiled else "cpu")
    optimizer = build_optimizer(experiment.trainer.optimizer_config, 100)
    optimizer.build(model.trainable_variables)
    model.compile(optimizer=optimizer)
    # Spreads the anchors' scores: at the start all are nearly equal, and rounding would choose the proposals.
    kernel = model.network.rpn_head.classifier.kernel
    kernel.assign(kernel * 100.0)
    before = [v.numpy().copy() for v in model.network.variables]
    step = tf.function(model.train_step, jit_compile=compiled, autograph=False)
    result = step({**batch, "images": batch["images"] * brighter}, tf.constant(0))
    logs = {name: float(value) for name, value in result.items()}
    changes = [v.numpy() - start for v, start in zip(model.network.variables, before, strict=True)]
    return logs, changes, [v.path for v in model.network.variables]


@pytest.mark.slow
def test_the_compiled_step_equals_the_plain_one(shapes_records: Path) -> None:
    (plain, changes, names), (compiled, compiled_changes, _) = (
        one_step("panoptic_fpn_shapes", shapes_records, xla) for xla in (False, True)
    )
    # Proposals and samples are the same. Sums are in another order, and statistics of few pixels amplify this.
    assert compiled == pytest.approx(plain, rel=1e-4)
    for name, ours, theirs in zip(names, changes, compiled_changes, strict=True):
        slack = 3e-2 * np.abs(ours).max() + 1e-6
        assert np.abs(ours - theirs).max() <= slack, name


@pytest.mark.slow
def test_the_coco_step_compiles_and_equals_the_plain_one(shapes_records: Path) -> None:
    """The differences are those of rounding.

    Initial weights and statistics of few pixels (2x2 at level 6) amplify rounding. The test measures by how much: it
    repeats the plain step with pictures that are brighter by a millionth.
    """
    preset = "panoptic_fpn_coco"
    plain, changes, _ = one_step(preset, shapes_records, False)
    _, nudged, _ = one_step(preset, shapes_records, False, brighter=1.0 + 1e-6)
    compiled, compiled_changes, _ = one_step(preset, shapes_records, True)
    norm, plain_norm = compiled.pop("gradient_norm"), plain.pop("gradient_norm")

    def apart(others: list[np.ndarray]) -> np.ndarray:
        # The gradient of a bias before a normalisation is only rounding: 1e-8, where others have 1e-4.
        moved = [(a, b) for a, b in zip(changes, others, strict=True) if np.linalg.norm(a) > 1e-6]
        return np.array([np.linalg.norm(b - a) / np.linalg.norm(a) for a, b in moved])

    ours, rounding = apart(compiled_changes), apart(nudged)
    assert norm == pytest.approx(plain_norm, rel=5e-3)  # measured: 4.0e-3
    assert compiled == pytest.approx(plain, rel=1e-4)  # measured: 2.6e-5
    # Measured: medians 1.1 and 0.3 %, 95 % below 7.2 and 2.1 %. Another sample or rule would change whole variables.
    assert np.median(ours) <= 5 * np.median(rounding)
    assert np.quantile(ours, 0.95) <= 5 * np.quantile(rounding, 0.95)
