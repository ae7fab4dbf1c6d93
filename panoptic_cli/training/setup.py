"""From the options of a training to its configuration."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from panoptic_cli import config, console
from panoptic_cli.config import Experiment
from panoptic_cli.errors import UsageError
from panoptic_cli.training import inputs

_TRAIN_RECORDS, _VAL_RECORDS = "task.train_data.input_path", "task.validation_data.input_path"
_BATCH_SIZE, _STEPS = "task.train_data.global_batch_size", "trainer.train_steps"
_ACCUMULATION = "trainer.gradient_accumulation_steps"
_INIT = "task.init_checkpoint"

Options = list[tuple[str, Any]]


def configure_training(
    preset: str | None,
    options: Options,
    *,
    schedule: str | None = None,
    config_file: Path | None = None,
    params_override: str | None = None,
    settings: Sequence[str] = (),
    data_dir: Path,
    epochs: float | None = None,
) -> Experiment:
    """Builds the configuration of a training. Prints how the schedule was fitted.

    Args:
        preset: name of the experiment; None: the default one.
        options: (dotted key, value) pairs from command-line options that were given.
        schedule: name of one of the preset's schedules.
        config_file: YAML file with any part of the configuration.
        params_override: assignments `a.b=c` with commas between them.
        settings: assignments `a.b=c`.
        data_dir: the data folder; its records are the default.
        epochs: the length in passes over the training data; None: the configured steps.

    Raises:
        UsageError: the options contradict each other, or the configuration is not valid.
        DataError: `epochs` is given, and the training records are missing or damaged.
    """
    # A configuration file can say null; on the command line "none" stands for it.
    options = [(key, None if key == _INIT and value == "none" else value) for key, value in options]
    given = dict(options)
    name = preset or config.DEFAULT_EXPERIMENT
    if epochs is not None and _STEPS in given:
        raise UsageError("--epochs and --steps cannot be combined.", "Give only one of them.")
    overrides = config.split_params(params_override or "")

    def load(extra: Options) -> Experiment:
        return config.load_experiment(
            name,
            schedule=schedule,
            config_file=config_file,
            params_override=overrides,
            settings=settings,
            options=[*options, *extra],
        )

    experiment = load([])
    added = _default_records(experiment, data_dir)
    if added:
        experiment = load(added)
    if _BATCH_SIZE in given or _ACCUMULATION in given or epochs is not None:
        pictures = None if epochs is None else inputs.count_pictures(experiment.task.train_data.input_path)
        start = config.load_experiment(name, schedule=schedule)
        scaled = config.scale_schedule(experiment, start, epochs=epochs, pictures=pictures)
        experiment = load([*added, *scaled.changes])
        if scaled.summary:
            console.info(scaled.summary)
    return experiment


def _default_records(experiment: Experiment, data_dir: Path) -> Options:
    """Returns the record patterns that the configuration does not have."""
    task = experiment.task
    train, val = config.default_records(data_dir)
    missing = [(_TRAIN_RECORDS, train)] if not task.train_data.input_path else []
    return [*missing, *([(_VAL_RECORDS, val)] if not task.validation_data.input_path else [])]
