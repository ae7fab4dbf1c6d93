"""Which settings may change when a run is resumed."""

from __future__ import annotations

from typing import Any, NamedTuple

from panoptic_cli import config
from panoptic_cli.config import Experiment

TRAIN_DATA = "task.train_data.input_path"

# Lengths, intervals, devices, and everything that only reads the model.
_FREE = (
    "trainer.train_steps",
    "trainer.steps_per_loop",
    "trainer.checkpoint_interval",
    "trainer.summary_interval",
    "trainer.max_to_keep",
    "trainer.validation_interval",
    "trainer.validation_steps",
    "trainer.early_stopping.",
    "task.strict_init",  # the initial weights are read once
    "task.init_categories",
    "task.annotation_file",
    "task.categories_file",  # the table itself is compared
    "task.validation_data.",
    "runtime.",
)
# The number format decides what the weights and the optimizer's state become.
_FIXED = ("runtime.mixed_precision_dtype",)

_STEPS, _RATE, _EOMT = "trainer.train_steps", "trainer.optimizer_config.learning_rate", "task.model.eomt"


def describe(conflict: config.Difference, theirs: Experiment) -> str:
    """Returns a conflict in words, with its reason where that is not clear.

    Args:
        conflict: one of `conflicts`.
        theirs: the configuration of the last start.
    """
    followers = _followers(theirs)
    if conflict.key != _STEPS or not followers:
        return str(conflict)
    what = " and ".join(follower.what for follower in followers)
    values = [(key, str(value).replace(" ", "")) for follower in followers for key, value in follower.values.items()]
    keys = " ".join(f"--set {key}={value}" for key, value in values)
    covers, keeps = ("covers", "keeps it") if len(followers) == 1 else ("cover", "keep them")
    return f"{conflict} ({what} {covers} all steps; {keys} {keeps})"


def conflicts(ours: Experiment, theirs: Experiment) -> list[config.Difference]:
    """Returns the differences between two configurations that change what a training computes.

    Args:
        ours: the configuration of this start.
        theirs: the configuration of the last start.
    """
    mine, before = _settled(ours), _settled(theirs)

    def may_change(key: str) -> bool:
        if key == _STEPS:
            return mine == before
        if key in mine and key in before:
            return mine[key] == before[key]
        if key in _FIXED:
            return False
        return any(key == free or (free.endswith(".") and key.startswith(free)) for free in _FREE)

    return [difference for difference in config.differences(ours, theirs) if not may_change(difference.key)]


class _Follower(NamedTuple):
    """A part of the training that follows its length unless its steps are set.

    Attributes:
        what: in words.
        values: the keys that set its steps, with what these are now.
        follows: whether they follow the length.
    """

    what: str
    values: dict[str, Any]
    follows: bool


def _parts(experiment: Experiment) -> list[_Follower]:
    """Returns the parts of a configuration that can follow its length."""
    steps, found = experiment.trainer.train_steps, []
    rate = experiment.trainer.optimizer_config.learning_rate
    if rate.type != "stepwise":
        decay_steps = getattr(rate, rate.type).decay_steps
        key = f"{_RATE}.{rate.type}.decay_steps"
        found.append(_Follower(f"the {rate.type} learning rate", {key: decay_steps or steps}, decay_steps is None))
    if experiment.task.model.type == "eomt":
        eomt = experiment.task.model.eomt
        keys = [f"{_EOMT}.attn_mask_annealing_{end}_steps" for end in ("start", "end")]
        values = dict(zip(keys, eomt.annealing_steps(steps), strict=True))
        found.append(_Follower("the masked attention", values, eomt.attn_mask_annealing_start_steps is None))
    return found


def _followers(experiment: Experiment) -> list[_Follower]:
    return [part for part in _parts(experiment) if part.follows]


def _settled(experiment: Experiment) -> dict[str, Any]:
    """Returns the steps of the parts that can follow the length of a training, by key."""
    return {key: value for part in _parts(experiment) for key, value in part.values.items()}
