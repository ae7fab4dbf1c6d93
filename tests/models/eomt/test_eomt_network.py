"""The network against the figures of the original implementation, and its forms of computation against each other."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from eomt_checkpoints import FORWARD, generator, pixels, variables

from panoptic_cli.categories import CategoryTable
from panoptic_cli.config.eomt import Eomt as EomtConfig
from panoptic_cli.models.eomt.blocks import Block
from panoptic_cli.models.eomt.masking import open_patches
from panoptic_cli.models.eomt.network import Eomt
from panoptic_cli.pipeline.preprocessing import Geometry

Load = Callable[[str], Eomt]
NAMES = ("tiny_gelu", "tiny_swiglu", "dinov3_gelu", "dinov3_gated")
GEOMETRY = Geometry(*(tf.zeros([1, 2]) for _ in Geometry._fields))
SEED = tf.constant([3, 5])


class Figures:
    """The figures of a network, and the comparison with them."""

    def __init__(self, name: str) -> None:
        self.facts = variables(name)
        with np.load(FORWARD / name / "forward.npz") as file:
            self.values = {key: file[key] for key in file.files}
        self.images = tf.constant(pixels(name))

    def check(self, key: str, value: Any, kind: str) -> None:
        """Compares the elements that are stored, within ten times float32's noise."""
        value, strides = np.asarray(value), self.facts["strides"]
        if kind == "tokens":
            value = value[:, :: strides["tokens"], : strides["channels"]]
        elif kind == "class":
            value = value[:, :: strides["queries"]]
        elif kind == "mask":
            value = value[:, :: strides["queries"], :: strides["pixels"], :: strides["pixels"]]
        noise = self.facts["noise"][f"{key.partition('_')[0]} {kind}"]
        np.testing.assert_allclose(value, self.values[key], rtol=0, atol=10 * noise, err_msg=key)

    def check_moments(self, key: str, value: Any, kind: str) -> None:
        # A mean over many elements is nearer than its elements are.
        noise = self.facts["noise"][f"{key.partition('_')[0]} {kind}"]
        found = [np.mean(value, dtype=np.float64), np.std(value, dtype=np.float64)]
        np.testing.assert_allclose(found, self.values[key], rtol=0, atol=10 * noise, err_msg=key)

    def draws(self) -> list[tf.Tensor]:
        """Returns the numbers that decide which queries are masked, for each masked block."""
        batch, queries = len(self.images), self.values["half_class"].shape[1]
        count = sum(key.startswith("half_open_") for key in self.values)
        return [
            tf.constant(generator(self.facts["salt"], f"open/{block}").random((batch, queries), dtype=np.float32))
            for block in range(count)
        ]


@pytest.fixture
def tokens(monkeypatch: pytest.MonkeyPatch) -> list[tf.Tensor]:
    """Collects the input of the first block and the outputs of all."""
    found: list[tf.Tensor] = []
    call = Block.call

    @functools.wraps(call)  # Keras reads its signature
    def collecting(self: Block, x: tf.Tensor, **options: Any) -> tf.Tensor:
        if not found:
            found.append(x)
        found.append(call(self, x, **options))
        return found[-1]

    monkeypatch.setattr(Block, "call", collecting)
    return found


def run(network: Eomt, images: tf.Tensor, platform: Any = "cpu", **options: Any) -> dict[str, np.ndarray]:
    """Runs the network as a graph."""
    function = tf.function(lambda x: network(x, GEOMETRY, platform=platform), **options, autograph=False)
    return {key: value.numpy() for key, value in function(images).items()}


def check_tokens(figures: Figures, name: str, tokens: list[tf.Tensor]) -> None:
    for place, state in enumerate(tokens):
        figures.check(f"{name}_tokens_{place}", state, "tokens")
    for what, function in (("mean", np.mean), ("std", np.std)):
        found = [function(state.numpy(), dtype=np.float64) for state in tokens]
        noise = figures.facts["noise"][f"{name} tokens"]
        np.testing.assert_allclose(found, figures.values[f"{name}_tokens_{what}"], rtol=0, atol=10 * noise)


@pytest.mark.shared
@pytest.mark.parametrize("name", NAMES)
def test_inference_is_that_of_the_original(name: str, load: Load, tokens: list[tf.Tensor]) -> None:
    figures = Figures(name)
    found = load(name)(figures.images, GEOMETRY)
    figures.check("off_class", found["class_logits"], "class")
    figures.check("off_mask", found["mask_logits"], "mask")
    figures.check_moments("off_class_moments", found["class_logits"], "class")
    figures.check_moments("off_mask_moments", found["mask_logits"], "mask")
    check_tokens(figures, "off", tokens)


@pytest.mark.shared
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["on", "half"])
def test_masked_attention_is_that_of_the_original(name: str, kind: str, load: Load, tokens: list[tf.Tensor]) -> None:
    figures, network = Figures(name), load(name)
    blocks = network.config.num_blocks
    probability = {"on": 1.0, "half": figures.facts["half"]}[kind]
    draws = figures.draws()
    found = network.predictions(figures.images, [probability] * blocks, SEED, draws=draws, training=False)
    assert len(found) == blocks + 1
    if kind == "on":
        for place, prediction in enumerate(found):
            figures.check(f"on_class_{place}", prediction.class_logits, "class")
            figures.check(f"on_mask_{place}", prediction.mask_logits, "mask")
            figures.check_moments(f"on_class_moments_{place}", prediction.class_logits, "class")
            figures.check_moments(f"on_mask_moments_{place}", prediction.mask_logits, "mask")
    else:
        figures.check("half_class", found[-1].class_logits, "class")
        figures.check("half_mask", found[-1].mask_logits, "mask")
    check_tokens(figures, kind, tokens)
    grid = (network.config.grid_size, network.config.grid_size)
    for place, (prediction, draw) in enumerate(zip(found, draws, strict=False)):
        opened = open_patches(prediction, grid, probability, draw)
        shares = np.mean(opened.numpy(), axis=-1)
        np.testing.assert_allclose(shares, figures.values[f"{kind}_open_{place}"], rtol=0, atol=1e-6)


@pytest.mark.shared
def test_the_small_network_is_that_of_the_original(load: Load) -> None:
    figures, network = Figures("small"), load("small")
    found = run(network, figures.images)  # as a graph, in which oneDNN normalises
    for kind in ("class", "mask"):
        figures.check(f"off_{kind}", found[f"{kind}_logits"], kind)
        figures.check_moments(f"off_{kind}_moments", found[f"{kind}_logits"], kind)


@pytest.mark.shared
@pytest.mark.parametrize("name", ["dinov3_gelu", "dinov3_gated"])
def test_rotary_positions_are_those_of_the_original(name: str, load: Load) -> None:
    positions, figures = load(name).rotary_positions, Figures(name)
    assert positions is not None
    for kind, found in positions()._asdict().items():
        # The second half of the channels has the angles of the first. float32's cosine differs by 1e-6 at angles of 6.
        np.testing.assert_allclose(np.tile(found, 2), figures.values[f"rope_{kind}"], rtol=0, atol=2e-6)


@pytest.mark.shared
def test_a_picture_alone_eagerly_and_compiled_is_the_same(load: Load) -> None:
    network, images = load("dinov3_gated"), Figures("dinov3_gated").images
    together = run(network, images)
    others = {
        "alone": run(network, images[:1]),
        "eager": {key: value.numpy() for key, value in network(images, GEOMETRY).items()},
        "xla": run(network, images, "xla", jit_compile=True),
    }
    for what, found in others.items():
        for key, value in together.items():
            # A different order of sums: up to ten times float32's noise in these logits, 2e-5.
            np.testing.assert_allclose(found[key], value[: len(found[key])], rtol=0, atol=2e-4, err_msg=what)


@pytest.mark.shared
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", ["tiny_gelu", "tiny_swiglu", "dinov3_gated"])
def test_half_precision_is_close_with_variables_of_either_kind(name: str, dtype: str, load: Load) -> None:
    figures, outputs = Figures(name), []
    for policy in (f"mixed_{dtype}", dtype):
        keras.config.set_dtype_policy(policy)
        network = load(name)
        outputs.append(run(network, figures.images))
        kernels = {str(v.dtype) for v in network.variables if v.path.endswith("kernel")}
        assert kernels == {"float32", dtype if policy == dtype else "float32"}  # the classes' is float32
    mixed, half = outputs
    assert {value.dtype for found in outputs for value in found.values()} == {np.dtype(np.float32)}
    for key, value in mixed.items():
        np.testing.assert_array_equal(half[key], value)
    for kind in ("class", "mask"):
        # bfloat16 has 8 bits, so each of 4 blocks changes its tokens by some thousandths; float16 has 11.
        limit = {"bfloat16": 0.08, "float16": 0.01}[dtype]
        error = mixed[f"{kind}_logits"] - figures.values[f"off_{kind}"]
        assert np.sqrt(np.mean(error**2)) < limit * np.std(figures.values[f"off_{kind}"])


def tiny(table: CategoryTable, **fields: Any) -> Eomt:
    sizes: dict[str, Any] = {
        "image_size": 64,
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "num_blocks": 2,
        "num_queries": 5,
    }
    return Eomt(EomtConfig(**{**sizes, **fields}), table)


@pytest.mark.parametrize("fields", [{}, {"model_type": "eomt_dinov3", "key_bias": False, "pos_embed_jitter": 1.5}])
def test_training_computes_gradients_of_every_variable(fields: dict[str, Any], table: CategoryTable) -> None:
    network = tiny(table, **fields)
    images = tf.random.stateless_normal([2, 64, 64, 3], SEED)

    @tf.function(autograph=False)
    def gradients(probabilities: tf.Tensor) -> Any:
        with tf.GradientTape() as tape:
            found = network.predictions(images, probabilities, SEED)
            loss = tf.add_n([tf.reduce_mean(x.class_logits**2) + tf.reduce_mean(x.mask_logits**2) for x in found])
        return tape.gradient(loss, [variable.value for variable in network.trainable_variables])

    for variable, gradient in zip(network.trainable_variables, gradients(tf.constant([1.0, 0.5])), strict=True):
        assert gradient is not None, variable.path
        # A bias of the keys adds the same to all scores of a row, which changes no probability.
        assert variable.name == "key_bias" or np.any(gradient), variable.path


def test_stochastic_depth_skips_halves_of_blocks_by_the_seed(table: CategoryTable) -> None:
    network = tiny(table, drop_path_rate=0.5)
    images = tf.random.stateless_normal([4, 64, 64, 3], SEED)

    def final(seed: list[int], training: bool) -> np.ndarray:
        found = network.predictions(images, [0.0, 0.0], tf.constant(seed), training=training)
        return np.asarray(found[-1].class_logits)

    assert np.array_equal(final([1, 2], True), final([1, 2], True))
    assert not np.allclose(final([1, 2], True), final([1, 3], True))
    assert np.array_equal(final([1, 2], False), final([1, 3], False))
    # Without masks and skipped parts, the last prediction is that of inference.
    np.testing.assert_allclose(final([1, 2], False), network(images, GEOMETRY)["class_logits"], rtol=0, atol=1e-5)


def test_a_frozen_backbone_leaves_queries_and_heads(table: CategoryTable) -> None:
    network = tiny(table)
    network.freeze_backbone()
    assert {variable.path.split("/")[1] for variable in network.trainable_variables} == {"queries", "heads"}


def test_variables_have_paths_of_their_own(table: CategoryTable) -> None:
    network = tiny(table)
    paths = [variable.path for variable in network.variables]
    assert len(set(paths)) == len(paths)
    assert network.blocks[1].attention.projection.kernel.path == "eomt/block1/attention/projection/kernel"


def test_random_weights_are_not_repeated(table: CategoryTable) -> None:
    network = tiny(table, use_swiglu_ffn=True)
    mlp = network.blocks[0].mlp
    assert mlp.gate is not None
    kernels = [mlp.gate.kernel, mlp.up.kernel, network.blocks[1].mlp.up.kernel]
    assert not any(np.array_equal(a, b) for a, b in itertools.pairwise(kernels))


def test_the_last_logits_have_one_class_more_than_the_table(table: CategoryTable) -> None:
    network = tiny(table, num_upscale_blocks=1)
    found = network(tf.zeros([3, 64, 64, 3]), GEOMETRY)
    assert found["class_logits"].shape == (3, 5, 134)
    assert found["mask_logits"].shape == (3, 5, 8, 8)  # 4 x 4 patches, doubled once
    assert network.describe_classes() == {"class_category_ids": list(range(1, 134))}
