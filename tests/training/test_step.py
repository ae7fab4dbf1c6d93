"""One training step on generated pictures: in each precision, without ground truth, and what it updates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from panoptic_cli import devices, models
from panoptic_cli.categories import CategoryTable
from panoptic_cli.config import Experiment, load_experiment
from panoptic_cli.demo.shapes import CATEGORIES
from panoptic_cli.pipeline.batches import training_dataset
from panoptic_cli.training.step import TrainingModel

TABLE = CategoryTable.from_list(CATEGORIES, "shapes")
PARTS = (
    *("rpn_score_loss", "rpn_box_loss", "frcnn_class_loss", "frcnn_box_loss"),
    *("mask_loss", "semantic_loss", "l2_loss"),
)


pytestmark = pytest.mark.usefixtures("restored_policy")


def experiment(folder: Path, precision: str = "float32", **more: Any) -> Experiment:
    options = {
        "task.train_data.input_path": str(folder / "train-*"),
        "task.model.input_size": [64, 64, 3],
        "runtime.mixed_precision_dtype": precision,
        **more,
    }
    return load_experiment("panoptic_fpn_shapes", options=list(options.items()))


@pytest.fixture(scope="module")
def batch(shapes_records: Path) -> Any:
    config = experiment(shapes_records)
    targets = models.training_targets(config, TABLE)
    return next(iter(training_dataset(config, targets, batch_size=2, seed=1)))


def training_model(config: Experiment) -> TrainingModel:
    devices.set_precision(config.runtime)
    keras.utils.set_random_seed(0)
    return TrainingModel(models.create_network(config, TABLE), config, "cpu")


def without_ground_truth(batch: Any) -> Any:
    empty = dict(batch)
    for key in ("gt_boxes", "gt_classes"):
        empty[key] = -tf.ones_like(batch[key])
    empty["gt_masks"] = tf.zeros_like(batch["gt_masks"])
    empty["rpn_scores"] = {level: tf.minimum(x, 0) for level, x in batch["rpn_scores"].items()}
    empty["rpn_boxes"] = {level: tf.zeros_like(x) for level, x in batch["rpn_boxes"].items()}
    return empty


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_steps_in_each_precision(precision: str, shapes_records: Path, batch: Any) -> None:
    config = experiment(shapes_records, precision)
    model = training_model(config)
    assert model.network.compute_dtype == precision
    assert {v.dtype for v in model.network.trainable_variables} == {"float32"}
    optimizer: Any = keras.optimizers.SGD(0.02, momentum=0.9)
    if precision == "float16":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=2.0**10)
    model.compile(optimizer=optimizer)
    optimizer.build(model.network.trainable_variables)
    before = [v.numpy() for v in model.network.trainable_variables]
    step = tf.function(model.train_step, autograph=False)
    history = [{name: float(value) for name, value in step(batch, tf.constant(i)).items()} for i in range(6)]
    for losses in history:
        assert set(losses) >= {"total_loss", *PARTS}
        assert all(np.isfinite(value) for value in losses.values()), losses
    assert history[-1]["total_loss"] < history[0]["total_loss"]  # the same batch again and again
    changed = [not np.array_equal(a, v.numpy()) for a, v in zip(before, model.network.trainable_variables, strict=True)]
    assert all(changed), [v.path for v, c in zip(model.network.trainable_variables, changed, strict=True) if not c]
    assert all(np.isfinite(v.numpy()).all() for v in model.network.variables)


@pytest.mark.slow
def test_losses_add_up_and_are_finite_without_ground_truth(shapes_records: Path, batch: Any) -> None:
    config = experiment(shapes_records)
    model = training_model(config)
    variables = model.network.trainable_variables

    @tf.function(autograph=False)
    def run(data: Any) -> tuple[dict[str, tf.Tensor], list[tf.Tensor], tf.Tensor]:
        with tf.GradientTape() as tape:
            losses = model.network.losses(data, tf.constant([1, 2]), tf.constant(0), "cpu")
        gradients = tape.gradient(losses["total_loss"], [v.value for v in variables])
        gradients = [tf.convert_to_tensor(g) for g in gradients]
        return losses, gradients, tf.linalg.global_norm(gradients)

    for data in (batch, without_ground_truth(batch)):
        losses, gradients, norm = run(data)
        values = {name: float(value) for name, value in losses.items()}
        weights = dict.fromkeys(PARTS, 1.0) | {"semantic_loss": 0.5}
        total = sum(weights[name] * values[name] for name in PARTS)
        assert values["total_loss"] == pytest.approx(total, rel=1e-5)
        assert all(np.isfinite(value) for value in values.values())
        assert all(np.isfinite(g).all() for g in gradients)
        assert float(norm) > 0
    # The last batch has no ground truth: nothing to regress, but background to recognise.
    assert values["rpn_box_loss"] == values["frcnn_box_loss"] == values["mask_loss"] == 0
    assert values["rpn_score_loss"] > 0
    assert values["frcnn_class_loss"] > 0

    # L2 is half the squares of the kernels, without biases and normalisation.
    kernels = [v for v in variables if v.path.endswith("/kernel")]
    expected = config.task.losses.l2_weight_decay * sum(float(np.sum(v.numpy() ** 2)) for v in kernels) / 2
    assert values["l2_loss"] == pytest.approx(expected, rel=1e-4)
    assert 0 < len(kernels) < len(variables)

    # Only the seed of the ROI sampling decides.
    again = run(batch)[0]["frcnn_class_loss"]
    assert float(again) == float(run(batch)[0]["frcnn_class_loss"])
