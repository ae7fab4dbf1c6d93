"""Learning rates at every corner of a schedule, and the settings of the optimizers."""

from __future__ import annotations

import math

import keras
import pytest

from panoptic_cli.config import load_experiment
from panoptic_cli.config.schema import OptimizerConfig
from panoptic_cli.training.schedules import build_optimizer, build_schedule, clip_norm

FLOAT32 = 1e-6  # relative; rates are float32 scalars


@pytest.mark.parametrize(("name", "first", "second"), [("1x", 15000, 20000), ("3x", 45000, 60000)])
def test_the_reference_schedule_at_every_corner(name: str, first: int, second: int) -> None:
    experiment = load_experiment("panoptic_fpn_coco", schedule=name)
    schedule = build_schedule(experiment.trainer.optimizer_config, experiment.trainer.train_steps)
    expected = {
        0: 0.0067,
        1: 0.0067 + 1 / 500 * (0.12 - 0.0067),
        250: (0.0067 + 0.12) / 2,
        499: 0.0067 + 499 / 500 * (0.12 - 0.0067),
        500: 0.12,
        501: 0.12,
        first: 0.12,
        first + 1: 0.012,
        second: 0.012,
        second + 1: 0.0012,
        experiment.trainer.train_steps - 1: 0.0012,
    }
    for step, rate in expected.items():
        assert float(schedule(step)) == pytest.approx(rate, rel=FLOAT32), step


def test_the_warmup_leads_to_the_rate_at_its_last_step() -> None:
    # The boundary is within the warm-up: the line must lead to the second value.
    config = OptimizerConfig.model_validate(
        {
            "learning_rate": {"type": "stepwise", "stepwise": {"boundaries": [5], "values": [1.0, 0.1]}},
            "warmup": {"type": "linear", "linear": {"warmup_steps": 10, "warmup_learning_rate": 0.0}},
        }
    )
    schedule = build_schedule(config, 100)
    assert [float(schedule(s)) for s in (0, 5, 9, 10)] == pytest.approx([0, 0.05, 0.09, 0.1], rel=FLOAT32)


@pytest.mark.parametrize("decay_steps", [None, 50])
def test_a_cosine_covers_the_training_unless_its_length_is_set(decay_steps: int | None) -> None:
    config = OptimizerConfig.model_validate(
        {
            "learning_rate": {
                "type": "cosine",
                "cosine": {"initial_learning_rate": 0.4, "decay_steps": decay_steps, "alpha": 0.1},
            },
            "warmup": {"type": None},
        }
    )
    schedule = build_schedule(config, 200)
    length = decay_steps or 200
    for step in (0, 1, length // 2, length, length + 7):
        cosine = 0.5 * (1 + math.cos(math.pi * min(step, length) / length))
        assert float(schedule(step)) == pytest.approx(0.4 * (0.9 * cosine + 0.1), rel=1e-5), step


def test_one_constant_rate() -> None:
    config = OptimizerConfig.model_validate(
        {
            "learning_rate": {"type": "stepwise", "stepwise": {"boundaries": [], "values": [0.3]}},
            "warmup": {"type": "linear", "linear": {"warmup_steps": 0}},
        }
    )
    schedule = build_schedule(config, 10)
    assert [float(schedule(s)) for s in (0, 1, 2, 1000)] == pytest.approx([0.3] * 4, rel=FLOAT32)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_sgd(precision: str) -> None:
    sgd = OptimizerConfig.model_validate({"optimizer": {"sgd": {"momentum": 0.8, "global_clipnorm": 10.0}}})
    optimizer = build_optimizer(sgd, 100, precision)
    assert isinstance(optimizer, keras.optimizers.LossScaleOptimizer) == (precision == "float16")
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    assert isinstance(inner, keras.optimizers.SGD)
    assert (inner.momentum, inner.nesterov) == (0.8, False)
    assert inner.global_clipnorm is None  # Keras would clip each replica's part: the step does it
    assert clip_norm(sgd) == 10.0
    assert clip_norm(OptimizerConfig()) is None
    assert float(inner.learning_rate) == pytest.approx(0.0067, rel=FLOAT32)


def test_adamw() -> None:
    config = OptimizerConfig.model_validate({"optimizer": {"type": "adamw", "adamw": {"weight_decay_rate": 0.05}}})
    optimizer = build_optimizer(config, 100)
    assert isinstance(optimizer, keras.optimizers.AdamW)
    assert optimizer.weight_decay == 0.05
