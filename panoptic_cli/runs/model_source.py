"""Finding the model to evaluate, export or predict with: its configuration, categories and checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from panoptic_cli import config, storage
from panoptic_cli.categories import CategoryTable, read_categories
from panoptic_cli.coco.layout import CATEGORIES_FILE
from panoptic_cli.config import Experiment
from panoptic_cli.errors import PanopticError, RunError, UsageError
from panoptic_cli.records.files import first_folder
from panoptic_cli.runs import run_directory
from panoptic_cli.runs.categories import load_categories
from panoptic_cli.runs.described_model import DescribedModel, find_described
from panoptic_cli.runs.run_directory import RunDirectory
from panoptic_cli.weights.sources import Source, find_source


@dataclass(frozen=True)
class ModelSource:
    """What to load.

    Attributes:
        experiment: the configuration, overrides included.
        table: the categories.
        checkpoint: run directory or checkpoint, as the user names it.
        own_table: the categories under the names that they were trained with; --categories may give them others.
        weights: where the checkpoint comes from.
    """

    experiment: Experiment
    table: CategoryTable
    checkpoint: str
    own_table: CategoryTable
    weights: Source

    def fetch(self) -> str:
        """Returns the path or prefix of the weights, after fetching those that are neither here nor in a bucket.

        Raises:
            TransferError: they cannot be fetched.
        """
        return self.weights.fetch()


def default_run(experiment: str | None = None) -> Path:
    """Returns the run directory of an experiment if no other is given; of the default experiment for None."""
    return Path("runs") / (experiment or config.DEFAULT_EXPERIMENT)


def find_model(
    model_dir: Path | None,
    checkpoint: str | None,
    *,
    experiment: str | None = None,
    config_file: Path | None = None,
    params_override: str | None = None,
    settings: Sequence[str] | None = None,
    options: Sequence[tuple[str, Any]] = (),
    records_dir: str | Path | None = None,
) -> ModelSource:
    """Finds a model without loading it.

    Args:
        model_dir: a run directory, which has its own configuration; overrides are applied to it.
        checkpoint: a checkpoint: a path, an address or a published name. Without `model_dir`, its configuration is that
            of the published checkpoint, or of the run that contains it if neither `experiment` nor `config_file` is
            given; otherwise it is built from the other arguments.
        experiment: the preset of a checkpoint without a run directory. It also names the default run directory.
        config_file: YAML configuration of a checkpoint without a run directory.
        params_override: overrides in the comma form, "a.b=c,d.e=f".
        settings: overrides "a.b=c".
        options: overrides (key, value).
        records_dir: another folder that may contain categories.json, for a checkpoint without a run directory.

    Raises:
        UsageError: the arguments contradict each other, or the checkpoint names nothing.
        RunError: there is no such run or checkpoint.
        TransferError: the description of a repository on Hugging Face cannot be fetched.
    """
    assignments = config.split_params(params_override or "")
    source = None if checkpoint is None else find_source(checkpoint)
    published = None if source is None else source.published
    if source is not None and not source.exists():
        raise RunError(
            f"The checkpoint {checkpoint} does not exist.",
            "Check the path, or give a run directory with --model-dir. panoptic models lists the published ones.",
        )
    place = source.description() if source is not None and published is None and model_dir is None else None
    if place is not None and experiment is None and config_file is None:
        model_dir = run_of(place)
    if source is not None and model_dir is None:
        described = find_described(place) if place is not None else None
        preset = experiment or (described.preset if described is not None else config.DEFAULT_EXPERIMENT)
        schedule = None
        if published is not None and experiment in (None, published.experiment):
            preset, schedule = published.experiment or preset, published.schedule
        effective = config.load_experiment(
            preset,
            schedule=schedule,
            described=described.settings() if described is not None else None,
            config_file=config_file,
            params_override=assignments,
            settings=settings or (),
            options=options,
        )
        own_table = None if published is None else published.table()
        if described is not None:
            table = own_table = _categories_of(described, effective, records_dir)
        elif own_table is None:
            table = own_table = _find_categories(effective, records_dir)
        else:
            table = own_table if effective.task.categories_file is None else _replace_categories(effective, own_table)
        return ModelSource(effective, table, source.text, own_table, source)
    if config_file is not None:
        raise UsageError(
            "--config goes with --checkpoint: a run directory has its own configuration.",
            "Override single keys of a run with --set.",
        )
    directory = model_dir or default_run(experiment)
    effective, own_table = run_directory.load_run(directory)
    table = own_table
    if model_dir is not None and experiment not in (None, effective.experiment):
        raise UsageError(
            f"{directory} is a run of {effective.experiment}, not of {experiment}.",
            "Omit --experiment: a run directory has its own configuration.",
        )
    if assignments or settings or options:
        changed = effective.model_dump(mode="json")
        config.apply_overrides(changed, [*assignments, *(settings or ())])
        for key, value in options:
            config.set_key(changed, key, value)
        effective = config.validate(changed, f"{directory}/config.yaml with overrides")
        config.check_used(effective, [*assignments, *(settings or ())])
        if "task.categories_file" in dict(options):
            table = _replace_categories(effective, table)
    source = source or Source(str(directory))
    return ModelSource(effective, table, source.text, own_table, source)


def _categories_of(described: DescribedModel, experiment: Experiment, records_dir: str | Path | None) -> CategoryTable:
    """Returns the categories of a network that a config.json describes, in the order of its classes."""
    given = experiment.task.categories_file
    coco = described.coco_categories()
    if given is None and coco is not None:
        return coco
    try:
        table = _find_categories(experiment, records_dir)
    except PanopticError:
        if given is not None:
            raise
        raise described.without_categories() from None
    return described.ordered(table, given or "The data set")


def run_of(checkpoint: str) -> Path | None:
    """Returns the run directory of a checkpoint: RUN, RUN/checkpoints or RUN/checkpoints/ckpt-100; None if none."""
    path = Path(checkpoint)
    if storage.is_remote(checkpoint):
        return None
    return next((folder for folder in (path, *path.parents[:2]) if RunDirectory(folder).is_run), None)


def _replace_categories(experiment: Experiment, table: CategoryTable) -> CategoryTable:
    """Returns the categories of --categories: names and colours may differ from the run's, ids and kinds may not."""
    given = load_categories(experiment).by_id
    if {i: c.isthing for i, c in given.items()} != {c.id: c.isthing for c in table.categories}:
        raise UsageError(
            f"The categories of {experiment.task.categories_file} are not those that the run was trained with.",
            "Omit --categories (PANOPTIC_CATEGORIES): a run directory or a published checkpoint has its own.",
        )
    return CategoryTable(tuple(given[c.id] for c in table.categories))  # the run's order may number the classes


def _find_categories(experiment: Experiment, records_dir: str | Path | None) -> CategoryTable:
    """Reads the categories of --categories, or those beside the validation or training records."""
    task = experiment.task
    if task.categories_file is None:
        patterns = (task.validation_data.input_path, task.train_data.input_path)
        folders = [first_folder(pattern) for pattern in patterns if pattern]
        for folder in [*folders, *([str(records_dir)] if records_dir else [])]:
            path = f"{storage.normalize(folder)}/{CATEGORIES_FILE}"
            if storage.exists(path):
                return read_categories(path)
    return load_categories(experiment)
