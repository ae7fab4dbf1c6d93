"""Scale a preset's schedule to another batch size or number of epochs (linear scaling, arXiv 1706.02677, sec. 2.1)."""

from __future__ import annotations

import math
from collections.abc import Callable
from operator import attrgetter
from typing import Any, NamedTuple

from panoptic_cli.config.schema import Experiment

_PREFIX = "trainer.optimizer_config"


class Scaled(NamedTuple):
    """A scaled schedule.

    Attributes:
        changes: (dotted key, value) pairs for `load_experiment(options=...)`.
        summary: the changes in words, for the user; empty if there are none.
    """

    changes: list[tuple[str, Any]]
    summary: str


def scale_schedule(
    effective: Experiment, preset: Experiment, *, epochs: float | None = None, pictures: int | None = None
) -> Scaled:
    """Scales the learning rates and lengths that still have the preset's values. Values of the user are kept.

    Learning rates are proportional to the batch size of an optimizer step. The number of steps, the boundaries and the
    warm-up are inversely proportional to it, so that they stay at the same epoch. With `epochs` they are stretched to
    that many passes over the data.

    Args:
        effective: the user's configuration.
        preset: the experiment and schedule that it is based on.
        epochs: passes over the training data; None: train on as many pictures as the preset.
        pictures: number of training pictures; required with `epochs`.

    Returns:
        The changes to make.
    """
    ours, theirs = effective.pictures_per_step, preset.pictures_per_step
    rate, length = ours / theirs, theirs / ours
    if epochs is not None:
        assert pictures is not None, "the length of an epoch is needed"
        length = epochs * pictures / ours / preset.trainer.train_steps
    changes: list[tuple[str, Any]] = []
    texts: list[str] = []

    def times(value: Any) -> Any:
        return tuple(v * rate for v in value) if isinstance(value, tuple) else value * rate

    def steps(value: int) -> int:
        return max(1, round(value * length)) if value else 0

    def increasing(values: tuple[int, ...]) -> tuple[int, ...]:
        fitted: list[int] = []
        for value in values:
            fitted.append(max(steps(value), fitted[-1] + 1 if fitted else 1))
        return tuple(fitted)

    def all_steps(value: int) -> int:
        return max(1, math.ceil(value * length - 1e-6))

    optimizer = effective.trainer.optimizer_config
    kind = optimizer.learning_rate.type
    stepwise, cosine, polynomial = (kind == name for name in ("stepwise", "cosine", "polynomial"))
    linear, two_stage = (optimizer.warmup.type == name for name in ("linear", "two_stage"))
    # (key, how to scale it, whether the chosen schedule uses it; if not, the summary omits it)
    rows: list[tuple[str, Callable[[Any], Any], bool]] = [
        ("trainer.train_steps", all_steps, True),
        (f"{_PREFIX}.learning_rate.stepwise.values", times, stepwise),
        (f"{_PREFIX}.learning_rate.stepwise.boundaries", increasing, stepwise),
        (f"{_PREFIX}.learning_rate.cosine.initial_learning_rate", times, cosine),
        (f"{_PREFIX}.learning_rate.cosine.decay_steps", steps, cosine),
        (f"{_PREFIX}.learning_rate.polynomial.initial_learning_rate", times, polynomial),
        (f"{_PREFIX}.learning_rate.polynomial.end_learning_rate", times, polynomial),
        (f"{_PREFIX}.learning_rate.polynomial.decay_steps", steps, polynomial),
        (f"{_PREFIX}.warmup.linear.warmup_learning_rate", times, linear),
        (f"{_PREFIX}.warmup.linear.warmup_steps", steps, linear),
        (f"{_PREFIX}.warmup.two_stage.head_steps", steps, two_stage),
        (f"{_PREFIX}.warmup.two_stage.backbone_steps", steps, two_stage),
    ]
    for key, fit, used in rows:
        read = attrgetter(key)
        value = read(effective)
        if value is None or value != read(preset) or fit(value) == value:
            continue
        changes.append((key, fit(value)))
        if used:
            texts.append(f"{key.rsplit('.', 1)[-1].replace('_', ' ')} {_text(value)} -> {_text(fit(value))}")
    batches = effective.trainer.gradient_accumulation_steps
    size = f"{ours} ({batches} x {ours // batches})" if batches > 1 else ours
    reasons = [f"batch size {size} instead of {theirs}"] if ours != theirs else []
    reasons += [f"{epochs:g} epochs of {pictures:,} pictures"] if epochs is not None else []
    summary = f"Schedule scaled to {' and '.join(reasons)}: {', '.join(texts)}." if texts else ""
    return Scaled(changes, summary)


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return "/".join(_text(item) for item in value)
    return f"{value:.6g}" if isinstance(value, float) else f"{value:,}"
