"""A training step of EoMT: the authors' figures of a whole network, and properties."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import eomt_checkpoints
import numpy as np
import pytest
import tensorflow as tf
from eomt_targets import in_order, injected, segment_targets

from panoptic_cli.categories import Category, CategoryTable
from panoptic_cli.config.hugging_face import described_network
from panoptic_cli.models.eomt import training
from panoptic_cli.models.eomt.losses import Points
from panoptic_cli.models.eomt.network import Eomt
from panoptic_cli.models.random_numbers import fold
from panoptic_cli.weights.hugging_face import load_hugging_face


def table_of(count: int) -> CategoryTable:
    return CategoryTable(
        tuple(Category(id=i + 1, name=f"category {i}", isthing=i < 80, color=(i, 0, 0)) for i in range(count))
    )


@pytest.fixture(scope="module")
def network(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Eomt:
    folder = eomt_checkpoints.write_checkpoint("tiny_gelu", tmp_path_factory.mktemp("eomt") / "tiny")
    config = json.loads((folder / "config.json").read_text())
    described = described_network(config, str(folder)).model
    made = Eomt(described.model_copy(update={"train_num_points": 112}), table_of(133))
    load_hugging_face(made, str(folder))
    return made


@pytest.fixture(scope="module")
def golden(shared: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    folder = shared / "conformance" / "eomt"
    return json.loads((folder / "losses.json").read_text()), dict(np.load(folder / "losses.npz"))


def test_losses_and_gradients_of_a_network(network: Eomt, golden: tuple[dict[str, Any], dict[str, np.ndarray]]) -> None:
    facts, arrays = golden
    images = tf.constant(eomt_checkpoints.pixels("tiny_gelu"))
    targets = segment_targets(facts["targets"], facts["mask_size"], 5)
    points = []
    for number in range(3):
        matched = np.full((2, 5), -1)
        for picture in range(2):
            matched[picture, arrays[f"network_cols_{number}_{picture}"]] = arrays[f"network_rows_{number}_{picture}"]
        drawn = injected(facts["salt"], f"network/{number}", [3, 5], 5, facts["num_points"])
        points.append(in_order(drawn, matched))
    seed = tf.constant([0, 0])
    with tf.GradientTape() as tape:
        found = network.predictions(images, [1.0, 1.0], seed)
        parts = training.training_losses(found, targets, points, seed, network.config, "cpu")
    # The README's noise of the total is 6e-6; ten times that are allowed.
    np.testing.assert_allclose(parts["total_loss"], facts["network"]["total"], rtol=6e-5)
    expected = arrays["network_losses"].mean(axis=0)
    names = ("cross_entropy_loss", "mask_loss", "dice_loss")
    np.testing.assert_allclose([float(parts[name]) for name in names], expected, rtol=6e-5)
    gradients = tape.gradient(parts["total_loss"], [v.value for v in network.trainable_variables])
    norm = tf.linalg.global_norm([tf.convert_to_tensor(g) for g in gradients])
    np.testing.assert_allclose(norm, facts["network"]["gradient_norm"], rtol=6e-5)
    by_name = _by_name(network, gradients)
    expected_norms = facts["network"]["gradient_norms"]
    norms = {name: float(np.linalg.norm(by_name[name])) for name in expected_norms}
    assert norms == {name: pytest.approx(value, rel=6e-5) for name, value in expected_norms.items()}
    for key, name in CORNERS.items():
        corner = arrays[f"network_gradient_{key}"]
        # The README's noise is 3.4e-6 of the largest entry of the whole gradient; ten times that are allowed.
        largest = np.abs(by_name[name]).max()
        np.testing.assert_allclose(by_name[name][:8, :8], corner, atol=3.4e-5 * largest, rtol=0, err_msg=key)


CORNERS = {"query": "query.weight", "q_proj": "layers.0.attention.q_proj.weight", "class": "class_predictor.weight"}


def _by_name(network: Eomt, gradients: list[Any]) -> dict[str, np.ndarray]:
    """The gradients by the names of Hugging Face's tensors, matrices in PyTorch's orientation."""
    of_variable = {
        id(variable): tf.convert_to_tensor(gradient).numpy()
        for variable, gradient in zip(network.trainable_variables, gradients, strict=True)
    }
    folder = eomt_checkpoints.FORWARD / "tiny_gelu"
    stored = network.hugging_face_variables(json.loads((folder / "config.json").read_text()), str(folder))
    found = {}
    for variable, forms in stored.variables:
        tensors, gradient = forms[0].tensors, of_variable[id(variable)]
        parts = np.split(gradient, len(tensors), axis=-1)  # several tensors are side by side in one kernel
        for tensor, part in zip(tensors, parts, strict=True):
            is_linear = part.ndim == 2 and not tensor.name.startswith(("query", "embeddings"))
            found[tensor.name] = part.T if is_linear else part
    return found


@pytest.mark.parametrize("recipe", ["a", "b"])
def test_the_annealing_of_the_authors(shared: Path, recipe: str) -> None:
    from panoptic_cli.config.eomt import Eomt as Config

    facts = json.loads((shared / "conformance" / "eomt" / "schedules.json").read_text())[recipe]
    told = facts["recipe"]
    config = Config(
        num_blocks=told["num_blocks"],
        attn_mask_annealing_start_steps=tuple(told["start"]),
        attn_mask_annealing_end_steps=tuple(told["end"]),
    )
    found = [training.mask_probabilities(config, tf.constant(step), 1).numpy() for step in facts["annealing_steps"]]
    np.testing.assert_allclose(found, facts["annealing"], rtol=1e-3, atol=1e-7)  # (1 - x)^0.9 near x = 1 in float32


@pytest.mark.parametrize(
    ("blocks", "total", "starts", "ends"),
    [
        (4, 88692, [14782, 29564, 44346, 59128], [29564, 44346, 59128, 73910]),
        (3, 177384, [29564, 73910, 118256], [59128, 103474, 147820]),
        (5, 88692, [14782, 25869, 36955, 48042, 59128], [29564, 40651, 51737, 62824, 73910]),
    ],
)
def test_the_steps_of_the_authors_follow_from_the_length(
    blocks: int, total: int, starts: list[int], ends: list[int]
) -> None:
    from panoptic_cli.config.eomt import Eomt as Config

    assert Config(num_blocks=blocks).annealing_steps(total) == (starts, ends)


@pytest.mark.slow
def test_a_step_is_the_same_under_xla(network: Eomt, golden: tuple[dict[str, Any], Any]) -> None:
    facts, _ = golden
    targets = segment_targets(facts["targets"], facts["mask_size"], 9)
    images, seed = tf.constant(eomt_checkpoints.pixels("tiny_gelu")), tf.constant([3, 5])
    # Given, because XLA draws others. There are nine places for five segments, which only XLA uses.
    drawn = [training.draw_points(network.config, 2, 9, fold(seed, number)) for number in range(3)]

    def step(platform: Any, places: int) -> dict[str, tf.Tensor]:
        found = network.predictions(images, [1.0, 1.0], seed, platform)
        points = [Points(p.matching, p.candidates[:, :places], p.uniform[:, :places]) for p in drawn]
        return training.training_losses(found, targets, points, seed, network.config, platform)

    plain = tf.function(lambda: step("cpu", 5), autograph=False)()
    compiled = tf.function(lambda: step("xla", 9), jit_compile=True, autograph=False)()
    for name, value in plain.items():
        np.testing.assert_allclose(compiled[name], value, rtol=1e-4, err_msg=name)  # float32, summed in another order


def test_points_follow_from_the_seed_and_the_picture(network: Eomt) -> None:
    seed = tf.constant([1, 2])
    few = training.draw_points(network.config, 2, 3, seed)
    more = training.draw_points(network.config, 3, 7, seed)
    for one, other in zip(few, Points(*more), strict=True):
        places = slice(None) if one.ndim == 3 else slice(0, 3)
        np.testing.assert_array_equal(one, other[:2, places])


@pytest.mark.slow
def test_recomputed_blocks_give_the_same_gradients(network: Eomt, golden: tuple[dict[str, Any], Any]) -> None:
    facts, _ = golden
    targets = segment_targets(facts["targets"], facts["mask_size"], 5)
    batch = {
        "images": tf.constant(eomt_checkpoints.pixels("tiny_gelu")),
        "segment_map": targets.segment_map,
        "segment_classes": targets.classes,
    }

    @tf.function(autograph=False)
    def gradients() -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            total = network.losses(batch, tf.constant([3, 5]), tf.constant(0), "cpu")["total_loss"]
        return [tf.convert_to_tensor(g) for g in tape.gradient(total, [v.value for v in network.trainable_variables])]

    kept = gradients()
    network.recompute = True
    try:
        again = tf.function(gradients.python_function, autograph=False)()
    finally:
        network.recompute = False
    # Tokens go to a prediction, an attention and a sum. The gradients of the last two are added first if a block is
    # computed again, which rounds otherwise. Those of the keys' biases are nothing but rounding.
    largest = max(float(np.abs(gradient).max()) for gradient in kept)
    for variable, one, other in zip(network.trainable_variables, kept, again, strict=True):
        limit = 1e-5 * np.abs(one).max() + 1e-6 * largest
        np.testing.assert_allclose(one, other, rtol=0, atol=limit, err_msg=variable.path)
