"""What a training reads: found and checked before TensorFlow is imported and anything is written."""

from __future__ import annotations

import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from panoptic_cli import config, console, devices, models, storage
from panoptic_cli.categories import CategoryTable, read_categories
from panoptic_cli.config import Experiment
from panoptic_cli.errors import RunError, counted
from panoptic_cli.evaluation.evaluation_data import EvaluationData, read_data
from panoptic_cli.records.files import count_records, find_record_files
from panoptic_cli.records.sample import sample_records
from panoptic_cli.records.sets import set_problems
from panoptic_cli.runs.categories import load_categories
from panoptic_cli.runs.model_source import run_of
from panoptic_cli.runs.run_directory import RunDirectory
from panoptic_cli.weights.sources import Source, find_source

INIT_HINT = "Give a local copy with --init-checkpoint PATH, or start from random weights: --init-checkpoint none."
_TIMEOUT = 10.0  # seconds
_LARGE = 0.5  # of the free memory


@dataclass(frozen=True)
class TrainingInputs:
    """What a training reads.

    Attributes:
        record_files: the training records.
        table: the category table.
        changes: differences from the last start of the run.
        initial: the initial weights; None: random ones, or those of the run's last checkpoint.
    """

    record_files: list[str]
    table: CategoryTable
    changes: list[config.Difference]
    initial: Source | None = None


def check(experiment: Experiment, model_dir: str | Path, table: CategoryTable | None = None) -> TrainingInputs:
    """Checks everything that needs no TensorFlow, except for remote files. Writes nothing.

    Args:
        experiment: the resolved configuration.
        model_dir: the run directory.
        table: the category table; None: read the one that the configuration points to.

    Raises:
        PanopticError: the devices contradict each other, a file is missing, the categories do not fit the network, the
            initial weights are those of another family, or the directory holds another run.
    """
    run, task = RunDirectory(model_dir), experiment.task
    devices.check_devices(
        experiment.runtime,
        batch_size=task.train_data.global_batch_size,
        model_dir=run.path,
        train_data=task.train_data.input_path,
    )
    record_files = find_training_records(task.train_data.input_path)
    table = table or load_categories(experiment)
    models.check_categories(experiment, table)
    if experiment.trainer.validation_interval:
        read_validation_data(experiment, table)
    changes = run.check(experiment, table)
    initial = None
    if task.init_checkpoint is not None and run.latest_checkpoint() is None:
        initial = find_source(task.init_checkpoint, option="--init-checkpoint")
        _check_family(experiment, initial)
        check_source(initial)
        if task.init_categories is not None:
            read_categories(task.init_categories)
    _warn(experiment, record_files, table)
    return TrainingInputs(record_files, table, changes, initial)


def _warn(experiment: Experiment, record_files: list[str], table: CategoryTable) -> None:
    """Says what is doubtful about the records, and which settings fit neither them nor each other."""
    task = experiment.task
    warnings = set_problems(task.train_data.input_path, table)
    sample = sample_records(record_files, table)
    if sample is not None:
        warnings += models.data_warnings(experiment, sample)
        total = sum(storage.size(path) for path in record_files)
        buffered = min(total, task.train_data.shuffle_buffer_size * sample.mean_bytes)
        free = _free_memory()
        if free is not None and buffered > _LARGE * free:
            warnings.append(
                f"The shuffle buffer will hold {buffered / 1e9:.1f} GB of records, and {free / 1e9:.1f} GB of memory "
                "are free. Lower task.train_data.shuffle_buffer_size."
            )
    if not table.things or not table.stuff:
        kind = "a thing" if table.stuff else "stuff"
        warnings.append(f"None of the {len(table.categories):,} categories is {kind}. Check isthing in the categories.")
    steps, warmup = experiment.trainer.train_steps, experiment.trainer.optimizer_config.warmup
    if warmup.type is not None and warmup.steps >= steps:
        warnings.append(
            f"The training ends after {counted(steps, 'steps')}, before its warm-up of {warmup.steps:,} has "
            f"reached the full learning rate. Lower trainer.optimizer_config.warmup.{warmup.type}, or give --epochs "
            "instead of --steps, which shortens the warm-up, too."
        )
    for warning in warnings:
        console.warn(warning)


def _free_memory() -> int | None:
    """Returns the bytes that a new program could use, None where that is not known."""
    try:
        with open("/proc/meminfo", encoding="ascii") as stream:
            return next(int(line.split()[1]) * 1024 for line in stream if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return None


def find_training_records(pattern: str) -> list[str]:
    """Returns the files of a pattern of training records, sorted.

    Raises:
        DataError: the pattern is empty, or a part of it matches nothing.
    """
    hint = "Run panoptic make-tfrecords first, or give --train-data the right pattern."
    return find_record_files(pattern, what="training records", hint=hint)


def count_pictures(pattern: str) -> int:
    """Counts the training records of a pattern, for the length of an epoch.

    Raises:
        DataError: no file matches, or a file is damaged.
    """
    return sum(count_records(find_training_records(pattern)))


def read_validation_data(
    experiment: Experiment, table: CategoryTable, tell: Callable[[str], None] = console.warn
) -> EvaluationData:
    """Reads and checks what validation during training needs; see `evaluation_data.read_data`."""
    data, batches = experiment.task.validation_data, experiment.trainer.validation_steps
    limit = None if batches in (None, -1) else batches * data.global_batch_size
    return read_data(data.input_path, table, experiment.task.annotation_file, limit, tell=tell)


def check_source(initial: Source) -> None:
    """Checks that initial weights exist on this machine, or that their bucket answers.

    Without a network, TensorFlow retries access to a bucket for minutes before it fails.

    Raises:
        RunError: they do not exist or cannot be reached.
    """
    if initial.is_fetched:
        if initial.repository is None and initial.published is not None and initial.cached() is None:
            _check_bucket(initial.published.source)
    elif storage.is_remote(initial.text):
        _check_bucket(initial.text)
    elif not initial.exists():
        raise RunError(f"The initial weights {initial.text} do not exist.", INIT_HINT)


def _check_family(experiment: Experiment, initial: Source) -> None:
    """Checks that initial weights are not those of another network, as far as that is known before reading them."""
    run = None if initial.is_fetched else run_of(initial.text)
    published, preset, theirs = initial.published, "", None
    if run is not None:
        config_of_run = RunDirectory(run).read_config()
        preset, theirs = f"--experiment {config_of_run.experiment}, ", config_of_run.task.model.type
    elif published is not None and published.experiment is not None:
        preset = f"--experiment {published.experiment}, "
        theirs = config.load_experiment(published.experiment).task.model.type
    elif published is not None:
        theirs = published.backbone_of
    ours = experiment.task.model.type
    if theirs is not None and theirs != ours:
        raise RunError(
            f"The initial weights {initial.text} are those of {theirs}, but experiment {experiment.experiment} trains "
            f"{ours}.",
            f"Use {preset}other initial weights, or --init-checkpoint none.",
        )


def _check_bucket(checkpoint: str) -> None:
    scheme, _, rest = checkpoint.partition("://")
    if scheme != "gs":
        return
    bucket = rest.partition("/")[0]
    host = os.environ.get("STORAGE_EMULATOR_HOST", "https://storage.googleapis.com")
    request = urllib.request.Request(f"{host}/{bucket}", method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=_TIMEOUT).close()
    except urllib.error.HTTPError:
        return  # the bucket answered; the reader will find out whether we may read the object
    except (OSError, http.client.HTTPException) as error:  # HTTPException: the text cannot be a bucket's name
        reason = getattr(error, "reason", error)
        raise RunError(f"The initial weights {checkpoint} cannot be reached: {reason}.", INIT_HINT) from None
