"""Learning-rate schedules and optimizers from the configuration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import keras
from keras import ops

from panoptic_cli.config.schema import LearningRate, OptimizerConfig, Polynomial
from panoptic_cli.training.parameter_groups import GroupedAdamW, ParameterGroup, SummedGradients

Schedule: TypeAlias = keras.optimizers.schedules.LearningRateSchedule


class LinearWarmup(Schedule):
    """A linear warm-up to another schedule.

    With step s, w warm-up steps and first rate r0, the rate is `r0 + s / w * (schedule(w) - r0)` for s < w, and
    `schedule(s)` from step w on. This is `LinearWarmup` of the TensorFlow Model Garden
    (official/modeling/optimization/lr_schedule.py): the line leads to the rate that the schedule has at step w, and the
    schedule is not shifted by w.

    Args:
        schedule: the schedule after the warm-up.
        warmup_steps: length of the warm-up in optimizer steps, at least 1.
        warmup_learning_rate: the rate at step 0.
    """

    def __init__(self, schedule: Schedule, warmup_steps: int, warmup_learning_rate: float) -> None:
        super().__init__()
        self.schedule = schedule
        self.warmup_steps = warmup_steps
        self.warmup_learning_rate = warmup_learning_rate

    def __call__(self, step: Any) -> Any:
        """Returns the float32 rate at `step`, a scalar."""
        position = ops.cast(step, "float32")
        line = self.warmup_learning_rate + position / self.warmup_steps * (
            self.schedule(self.warmup_steps) - self.warmup_learning_rate
        )
        # A select, not a branch: both sides are a few scalars, and a TPU needs no conditional.
        return ops.where(position < self.warmup_steps, line, self.schedule(step))


class StagedWarmup(Schedule):
    """A rate of 0, then a linear warm-up from 0, then the polynomial decay over the steps that are left.

    Args:
        config: has the decay.
        train_steps: length of the training, for a decay without `decay_steps`.
        rest: the steps with a rate of 0.
        length: the steps of the warm-up.
    """

    def __init__(self, config: OptimizerConfig, train_steps: int, rest: int, length: int) -> None:
        super().__init__()
        polynomial = config.learning_rate.polynomial
        self.rest = rest
        self.length = length
        self.highest = polynomial.initial_learning_rate
        total = polynomial.decay_steps or train_steps
        self.decay = _polynomial(polynomial, max(total - rest - length, 1))

    def __call__(self, step: Any) -> Any:
        """Returns the float32 rate at `step`, a scalar."""
        position = ops.cast(step, "float32") - self.rest
        line = self.highest * ops.maximum(position, 0.0) / max(self.length, 1)
        return ops.where(position < self.length, line, self.decay(ops.maximum(position - self.length, 0.0)))


def clip_norm(config: OptimizerConfig) -> float | None:
    """Returns the largest allowed norm of the gradient of all weights; None: no clipping."""
    return (
        config.optimizer.sgd.global_clipnorm
        if config.optimizer.type == "sgd"
        else config.optimizer.adamw.global_clipnorm
    )


def build_schedule(config: OptimizerConfig, train_steps: int) -> Schedule:
    """Builds the learning rate as a function of the optimizer's step (0 for the first update).

    Args:
        config: rate and warm-up.
        train_steps: length of the training, for a cosine without `decay_steps`.

    Returns:
        The schedule. A stepwise rate holds up to and including its boundary.
    """
    if config.warmup.type == "two_stage":
        return StagedWarmup(config, train_steps, 0, config.warmup.two_stage.head_steps)
    schedule = _decay(config.learning_rate, train_steps)
    linear = config.warmup.linear
    if config.warmup.type == "linear" and linear.warmup_steps:
        return LinearWarmup(schedule, linear.warmup_steps, linear.warmup_learning_rate)
    return schedule


def backbone_schedule(config: OptimizerConfig, train_steps: int) -> Schedule:
    """Builds the rate of the backbone, which is that of everything else but for a warm-up in two stages."""
    stages = config.warmup.two_stage
    if config.warmup.type == "two_stage":
        return StagedWarmup(config, train_steps, stages.head_steps, stages.backbone_steps)
    return build_schedule(config, train_steps)


def _decay(config: LearningRate, train_steps: int) -> Schedule:
    if config.type == "cosine":
        cosine = config.cosine
        return keras.optimizers.schedules.CosineDecay(
            cosine.initial_learning_rate, cosine.decay_steps or train_steps, alpha=cosine.alpha
        )
    if config.type == "polynomial":
        return _polynomial(config.polynomial, config.polynomial.decay_steps or train_steps)
    boundaries, values = list(config.stepwise.boundaries), list(config.stepwise.values)
    if not boundaries:  # Keras needs one: the rate is the same on both sides of it
        boundaries, values = [1], values * 2
    return keras.optimizers.schedules.PiecewiseConstantDecay(boundaries, values)


def _polynomial(config: Polynomial, decay_steps: int) -> Schedule:
    return keras.optimizers.schedules.PolynomialDecay(
        config.initial_learning_rate, decay_steps, config.end_learning_rate, config.power
    )


class _SGD(SummedGradients, keras.optimizers.SGD):
    pass


class _AdamW(SummedGradients, keras.optimizers.AdamW):
    pass


def build_optimizer(
    config: OptimizerConfig,
    train_steps: int,
    precision: str = "float32",
    groups: Sequence[ParameterGroup] | None = None,
) -> keras.optimizers.Optimizer:
    """Builds the optimizer. Call it in the scope of the distribution strategy.

    Args:
        config: optimizer, rate and warm-up.
        train_steps: length of the training in optimizer steps.
        precision: "float32", "bfloat16" or "float16", which uses dynamic loss scaling (arXiv 1710.03740).
        groups: the group of each trainable variable, in their order; None: the same rate for all.

    Returns:
        SGD with momentum or AdamW (arXiv 1711.05101). Its name is fixed, so that the names of its variables do not
        depend on how many optimizers the process made before. It takes gradients that are already summed over the
        replicas and clipped.
    """
    schedule = build_schedule(config, train_steps)
    optimizer: keras.optimizers.Optimizer
    if config.optimizer.type == "sgd":
        sgd = config.optimizer.sgd
        optimizer = _SGD(
            schedule,
            momentum=sgd.momentum,
            nesterov=sgd.nesterov,
            name="sgd",
        )
    elif groups is not None:
        optimizer = GroupedAdamW(
            config.optimizer.adamw, schedule, backbone_schedule(config, train_steps), groups, name="adamw"
        )
    else:
        adamw = config.optimizer.adamw
        optimizer = _AdamW(
            schedule,
            weight_decay=adamw.weight_decay_rate,
            beta_1=adamw.beta_1,
            beta_2=adamw.beta_2,
            epsilon=adamw.epsilon,
            name="adamw",
        )
    if precision == "float16":
        return keras.optimizers.LossScaleOptimizer(optimizer, name="loss_scale")
    return optimizer
