"""Experiment configurations: typed schema, presets and overrides."""

from panoptic_cli.config.data import default_records
from panoptic_cli.config.load import (
    DEFAULT_EXPERIMENT,
    Difference,
    check_used,
    differences,
    dump,
    load_experiment,
    preset_names,
    validate,
)
from panoptic_cli.config.overrides import apply_overrides, set_key, split_params
from panoptic_cli.config.scaling import scale_schedule
from panoptic_cli.config.schema import Experiment

__all__ = [
    "DEFAULT_EXPERIMENT",
    "Difference",
    "Experiment",
    "apply_overrides",
    "check_used",
    "default_records",
    "differences",
    "dump",
    "load_experiment",
    "preset_names",
    "scale_schedule",
    "set_key",
    "split_params",
    "validate",
]
