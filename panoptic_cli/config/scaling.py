"""A preset's schedule for another batch size or number of epochs (linear scaling, arXiv 1706.02677, section 2.1)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from panoptic_cli.config.schema import Experiment

_PREFIX = "trainer.optimizer_config"


class Scaled(NamedTuple):
    """A schedule that was fitted.

    Attributes:
        changes: (dotted key, value), for `load_experiment(options=...)`.
        summary: what changed, for the user; empty when nothing did.
    """

    changes: list[tuple[str, Any]]
    summary: str


def scale_schedule(
    effective: Experiment, preset: Experiment, *, epochs: float | None = None, pictures: int | None = None
) -> Scaled:
    """Fits rates and lengths that are still the preset's; what a file or an override set is the user's and stays.

    Rates grow with the batch size. The number of steps, boundaries and the warm-up shrink with it, so that they stay at
    the same epoch; with `epochs` they are stretched to that many passes over the data.

    Args:
        effective: the configuration as the user gave it.
        preset: the experiment and schedule it started from.
        epochs: passes over the training data; None: as many pictures as the preset sees.
        pictures: in the training data; needed with `epochs`.

    Returns:
        The changes to make.
    """
    ours, theirs = effective.task.train_data.global_batch_size, preset.task.train_data.global_batch_size
    rate, length = ours / theirs, theirs / ours
    if epochs is not None:
        assert pictures is not None, "the length of an epoch"
        length = epochs * pictures / ours / preset.trainer.train_steps
    changes: list[tuple[str, Any]] = []
    told: list[str] = []

    def scale(key: str, value: Any, before: Any, fit: Callable[[Any], Any], used: bool = True) -> None:
        if value is None or value != before or fit(value) == value:
            return
        changes.append((key, fit(value)))
        if used:
            told.append(f"{key.rsplit('.', 1)[-1].replace('_', ' ')} {_text(value)} -> {_text(fit(value))}")

    def steps(value: int) -> int:
        return max(1, round(value * length)) if value else 0

    def increasing(values: tuple[int, ...]) -> tuple[int, ...]:
        fitted: list[int] = []
        for value in values:
            fitted.append(max(steps(value), fitted[-1] + 1 if fitted else 1))
        return tuple(fitted)

    mine, base = effective.trainer.optimizer_config, preset.trainer.optimizer_config
    kind, warm = mine.learning_rate.type, mine.warmup.type == "linear"
    all_steps = max(1, math.ceil(preset.trainer.train_steps * length - 1e-6))
    scale("trainer.train_steps", effective.trainer.train_steps, preset.trainer.train_steps, lambda _: all_steps)
    pairs: list[tuple[str, Any, Any, Callable[[Any], Any], bool]] = [
        (
            "learning_rate.stepwise.values",
            mine.learning_rate.stepwise.values,
            base.learning_rate.stepwise.values,
            lambda values: tuple(v * rate for v in values),
            kind == "stepwise",
        ),
        (
            "learning_rate.stepwise.boundaries",
            mine.learning_rate.stepwise.boundaries,
            base.learning_rate.stepwise.boundaries,
            increasing,
            kind == "stepwise",
        ),
        (
            "learning_rate.cosine.initial_learning_rate",
            mine.learning_rate.cosine.initial_learning_rate,
            base.learning_rate.cosine.initial_learning_rate,
            lambda value: value * rate,
            kind == "cosine",
        ),
        (
            "learning_rate.cosine.decay_steps",
            mine.learning_rate.cosine.decay_steps,
            base.learning_rate.cosine.decay_steps,
            steps,
            kind == "cosine",
        ),
        (
            "warmup.linear.warmup_learning_rate",
            mine.warmup.linear.warmup_learning_rate,
            base.warmup.linear.warmup_learning_rate,
            lambda value: value * rate,
            warm,
        ),
        (
            "warmup.linear.warmup_steps",
            mine.warmup.linear.warmup_steps,
            base.warmup.linear.warmup_steps,
            steps,
            warm,
        ),
    ]
    for key, value, before, fit, used in pairs:
        scale(f"{_PREFIX}.{key}", value, before, fit, used)
    reasons = [f"batch {ours} instead of {theirs}"] if ours != theirs else []
    reasons += [f"{epochs:g} epochs of {pictures:,} pictures"] if epochs is not None else []
    summary = f"Schedule fitted to {' and '.join(reasons)}: {', '.join(told)}." if told else ""
    return Scaled(changes, summary)


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return "/".join(_text(item) for item in value)
    return f"{value:.6g}" if isinstance(value, float) else f"{value:,}"
