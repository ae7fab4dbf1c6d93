"""Typed experiment configurations: schema, presets, overrides."""

from panoptic_cli.config.load import (
    DEFAULT_EXPERIMENT,
    differences,
    dump,
    load_experiment,
    load_run_config,
    preset_names,
    save,
    validate,
)
from panoptic_cli.config.overrides import split_params
from panoptic_cli.config.schema import Experiment

__all__ = [
    "DEFAULT_EXPERIMENT",
    "Experiment",
    "differences",
    "dump",
    "load_experiment",
    "load_run_config",
    "preset_names",
    "save",
    "split_params",
    "validate",
]
