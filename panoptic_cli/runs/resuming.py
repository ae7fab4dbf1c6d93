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
    "task.annotation_file",
    "task.categories_file",  # the table itself is compared
    "task.validation_data.",
    "runtime.",
)
# The number format decides what the weights and the optimizer's state become.
_FIXED = ("runtime.mixed_precision_dtype",)


def conflicts(ours: Experiment, theirs: Experiment) -> list[config.Difference]:
    """Returns the differences between two configurations that change what a training computes.

    Args:
        ours: the configuration of this start.
        theirs: the configuration of the last start.
    """
    # A cosine without decay_steps covers train_steps: another length changes the rate of every step.
    rates = [e.trainer.optimizer_config.learning_rate for e in (ours, theirs)]
    length_is_fixed = any(rate.type == "cosine" and rate.cosine.decay_steps is None for rate in rates)

    def may_change(key: str) -> bool:
        if key in _FIXED or (key == "trainer.train_steps" and length_is_fixed):
            return False
        return any(key == free or (free.endswith(".") and key.startswith(free)) for free in _FREE)

    return [difference for difference in config.differences(ours, theirs) if not may_change(difference.key)]
