"""From the options of evaluate, export and predict to a configuration, its categories and a checkpoint."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from panoptic_cli.errors import UsageError

if TYPE_CHECKING:
    from panoptic_cli.categories import CategoryTable
    from panoptic_cli.config import Experiment


@dataclass(frozen=True)
class ModelSource:
    """What to load.

    Attributes:
        experiment: the configuration.
        table: the categories.
        checkpoint: run directory or checkpoint.
    """

    experiment: Experiment
    table: CategoryTable
    checkpoint: str


def find_model(
    model_dir: Path | None,
    checkpoint: str | None,
    *,
    experiment: str | None = None,
    config_file: Path | None = None,
    params_override: str | None = None,
    settings: list[str] | None = None,
    options: list[tuple[str, Any]] | None = None,
    records_dir: Path | None = None,
) -> ModelSource:
    """Finds the model that the options name; does not load it.

    Args:
        model_dir: a run directory; its own configuration counts, with overrides on top.
        checkpoint: a checkpoint; without `model_dir` its configuration is built from the options, or is that of the
            run that it lies in, where neither `experiment` nor `config_file` is given.
        experiment: preset, for a checkpoint without a run directory. It also names the default run directory.
        config_file: YAML configuration, likewise.
        params_override: overrides in the comma form.
        settings: overrides.
        options: (key, value) of other options.
        records_dir: where categories.json may be when a checkpoint comes without a run directory.

    Raises:
        UsageError: the options contradict each other.
        RunError: there is no such run.
    """
    from panoptic_cli import config
    from panoptic_cli.runs import run_directory

    assignments = config.split_params(params_override or "")
    if checkpoint is not None and model_dir is None and experiment is None and config_file is None:
        model_dir = _run_of(checkpoint)
    if checkpoint is not None and model_dir is None:
        effective = config.load_experiment(
            experiment or config.DEFAULT_EXPERIMENT,
            config_file=config_file,
            params_override=assignments,
            settings=settings or (),
            options=options or (),
        )
        return ModelSource(effective, _categories(effective, records_dir), checkpoint)
    if config_file is not None:
        raise UsageError(
            "--config goes with --checkpoint: a run directory has its own configuration.",
            "Override single keys of a run with --set.",
        )
    directory = model_dir or Path("runs") / (experiment or config.DEFAULT_EXPERIMENT)
    effective, table = run_directory.load(directory)
    if model_dir is not None and experiment not in (None, effective.experiment):
        raise UsageError(
            f"{directory} is a run of {effective.experiment}, not of {experiment}.",
            "Leave --experiment out: a run directory has its own configuration.",
        )
    if assignments or settings or options:
        changed = effective.model_dump(mode="json")
        config.apply_overrides(changed, [*assignments, *(settings or ())])
        for key, value in options or ():
            config.set_key(changed, key, value)
        effective = config.validate(changed, f"{directory}/config.yaml with overrides")
        if "task.categories_file" in dict(options or ()):
            table = _replacement(effective, table)
    return ModelSource(effective, table, checkpoint or str(directory))


def _run_of(checkpoint: str) -> Path | None:
    """The run directory that a checkpoint lies in: RUN, RUN/checkpoints or RUN/checkpoints/ckpt-100."""
    from panoptic_cli.runs.run_directory import RunDirectory

    path = Path(checkpoint)
    if "://" in checkpoint:
        return None
    return next((folder for folder in (path, *path.parents[:2]) if RunDirectory(folder).is_run), None)


def _replacement(experiment: Experiment, table: CategoryTable) -> CategoryTable:
    """The table of --categories: names and colours may be others than the run's, ids and kinds decide its heads."""
    from panoptic_cli.categories import CategoryTable
    from panoptic_cli.runs.categories import load_categories

    given = load_categories(experiment).by_id
    if {i: c.isthing for i, c in given.items()} != {c.id: c.isthing for c in table.categories}:
        raise UsageError(
            f"The categories of {experiment.task.categories_file} are not those that the run was trained with.",
            "Leave --categories (PANOPTIC_CATEGORIES) out: a run directory has its own.",
        )
    return CategoryTable(tuple(given[c.id] for c in table.categories))  # the run's order: it may number the classes


def _categories(experiment: Experiment, records_dir: Path | None) -> CategoryTable:
    """The table of --categories, or the one beside the validation or training records."""
    from panoptic_cli import storage
    from panoptic_cli.categories import read_categories
    from panoptic_cli.runs.categories import load_categories

    task = experiment.task
    if task.categories_file is None:
        patterns = (task.validation_data.input_path, task.train_data.input_path)
        folders = [os.path.dirname(pattern.split(",")[0].strip()) or "." for pattern in patterns if pattern]
        for folder in [*folders, *([str(records_dir)] if records_dir else [])]:
            path = f"{storage.normalize(folder)}/categories.json"
            if storage.exists(path):
                return read_categories(path)
    return load_categories(experiment)
