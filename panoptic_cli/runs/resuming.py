"""Which settings may change when a run is resumed."""

from __future__ import annotations

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


_STEPS, _DECAY_STEPS = "trainer.train_steps", "trainer.optimizer_config.learning_rate.cosine.decay_steps"


def describe(conflict: config.Difference) -> str:
    """Returns a conflict in words, with its reason where that is not clear."""
    if conflict.key != _STEPS:
        return str(conflict)
    return f"{conflict} (the cosine learning rate covers all steps; --set {_DECAY_STEPS}={conflict.theirs} keeps it)"


def conflicts(ours: Experiment, theirs: Experiment) -> list[config.Difference]:
    """Returns the differences between two configurations that change what a training computes.

    Args:
        ours: the configuration of this start.
        theirs: the configuration of the last start.
    """
    same_decay = _decay_steps(ours) == _decay_steps(theirs)

    def may_change(key: str) -> bool:
        if key in (_STEPS, _DECAY_STEPS):
            return same_decay
        if key in _FIXED:
            return False
        return any(key == free or (free.endswith(".") and key.startswith(free)) for free in _FREE)

    return [difference for difference in config.differences(ours, theirs) if not may_change(difference.key)]


def _decay_steps(experiment: Experiment) -> int | None:
    """Returns over how many steps a cosine falls; None for other schedules. By default it covers the training."""
    rate = experiment.trainer.optimizer_config.learning_rate
    return (rate.cosine.decay_steps or experiment.trainer.train_steps) if rate.type == "cosine" else None
