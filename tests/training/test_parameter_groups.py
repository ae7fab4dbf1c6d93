"""Learning rates by group: the tables of EoMT's authors, and AdamW as PyTorch computes it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest
from pydantic import ValidationError

from panoptic_cli.config.schema import LayerDecay, OptimizerConfig
from panoptic_cli.training.parameter_groups import GroupedAdamW, parameter_groups
from panoptic_cli.training.schedules import backbone_schedule, build_optimizer, build_schedule

FLOAT32 = 2e-6  # relative; rates are float32 powers


def settings(rate: float, stages: list[int], decay: dict[str, Any] | None = None, **adamw: float) -> OptimizerConfig:
    return OptimizerConfig.model_validate(
        {
            "optimizer": {"type": "adamw", "adamw": adamw},
            "learning_rate": {"type": "polynomial", "polynomial": {"initial_learning_rate": rate, "power": 0.9}},
            "warmup": {"type": "two_stage", "two_stage": {"head_steps": stages[0], "backbone_steps": stages[1]}},
            "layer_decay": decay or {},
        }
    )


@pytest.mark.parametrize("recipe", ["a", "b"])
def test_the_rates_of_the_authors(shared: Path, recipe: str) -> None:
    facts = json.loads((shared / "conformance" / "eomt" / "schedules.json").read_text())[recipe]
    told = facts["recipe"]
    full = 0 if told["llrd_l2_enabled"] else told["num_blocks"]
    config = settings(told["lr"], told["warmup_steps"], {"rate": told["llrd"], "full_rate_layers": full})
    layers: list[list[SimpleNamespace]] = [[SimpleNamespace()] for _ in range(told["depth"])]
    head = SimpleNamespace()
    variables = [*(layer[0] for layer in layers), head]
    network: Any = SimpleNamespace(backbone_layers=lambda: layers, trainable_variables=variables)
    groups = parameter_groups(network, config.layer_decay)
    schedules = [build_schedule(config, told["total_steps"]), backbone_schedule(config, told["total_steps"])]
    compared = 0
    for pattern, expected in facts["groups"].items():
        layer = _layer_of(pattern, told["depth"])
        group = groups[-1] if layer is None else groups[layer]
        rates = [float(schedules[group.of_backbone](step)) * group.factor for step in facts["steps"]]
        # The last rates are 1e-5 of the highest: float32 leaves few digits of 1 - s / total.
        np.testing.assert_allclose(rates[:-1], expected["lr"][:-1], rtol=2e-5, err_msg=pattern)
        np.testing.assert_allclose(rates[-1], expected["lr"][-1], rtol=1e-2, err_msg=pattern)
        compared += 1
    assert compared > told["depth"]


def _layer_of(pattern: str, depth: int) -> int | None:
    """The layer of a pattern of Hugging Face's names; None for what is no part of the backbone."""
    first, *rest = pattern.split(".")
    if first == "layers":
        return int(rest[0])
    return {"embeddings": 0, "layernorm": depth - 1, "norm": depth - 1}.get(first)


def test_the_update_is_that_of_pytorch() -> None:
    config = settings(0.1, [0, 0], {"rate": 0.5}, weight_decay_rate=0.05, epsilon=1e-3)
    values = [keras.Variable(np.array([1.0, -2.0], np.float32)), keras.Variable(np.array([3.0], np.float32))]
    network: Any = SimpleNamespace(backbone_layers=lambda: [[values[0]], []], trainable_variables=values)
    optimizer = build_optimizer(config, 100, groups=parameter_groups(network, config.layer_decay))
    assert isinstance(optimizer, GroupedAdamW)
    optimizer.build(values)
    rng = np.random.default_rng(3)
    expected = [value.numpy().astype(np.float64) for value in values]
    moments: list[list[Any]] = [[0.0, 0.0], [0.0, 0.0]]
    for step in range(5):
        gradients = [rng.normal(size=value.shape).astype(np.float32) * 1e-3 for value in values]
        optimizer.apply_gradients(zip(gradients, values, strict=True))
        for place, (gradient, factor) in enumerate(zip(gradients, (0.5, 1.0), strict=True)):
            first, second = moments[place]
            moments[place] = [0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2]
            rate = factor * 0.1 * (1 - step / 100) ** 0.9
            corrected = moments[place][0] / (1 - 0.9 ** (step + 1))
            spread = np.sqrt(moments[place][1] / (1 - 0.999 ** (step + 1)))
            expected[place] -= rate * (0.05 * expected[place] + corrected / (spread + 1e-3))
    for value, right in zip(values, expected, strict=True):
        np.testing.assert_allclose(value.numpy(), right, rtol=1e-5)


def test_the_layers_of_a_resnet_are_its_blocks() -> None:
    from panoptic_cli.config.panoptic_fpn import NormActivation, ResNetBackbone
    from panoptic_cli.models.panoptic_fpn.resnet import ResNet

    backbone = ResNet(ResNetBackbone(model_id=18, depth_multiplier=0.125), NormActivation())
    backbone.build((None, None, None, 3))
    layers = [[*backbone.stem_conv.variables, *backbone.stem_norm.variables], *(b.variables for b in backbone.blocks)]
    network: Any = SimpleNamespace(backbone_layers=lambda: layers, trainable_variables=backbone.trainable_variables)
    groups = parameter_groups(network, LayerDecay(rate=0.9))
    assert {group.factor for group in groups} == {0.9**above for above in range(9)}
    assert all(group.of_backbone for group in groups)


@pytest.mark.parametrize(
    "changes",
    [
        {"layer_decay": {"rate": 0.9}},
        {"warmup": {"type": "two_stage"}},
        {"warmup": {"type": "two_stage"}, "optimizer": {"type": "adamw"}, "learning_rate": {"type": "cosine"}},
    ],
)
def test_what_does_not_go_together(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="need"):
        OptimizerConfig.model_validate(changes)
