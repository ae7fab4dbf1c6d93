"""The run directory: one place that describes a training and holds its results.

    config.yaml        the resolved configuration
    categories.json    the category table
    environment.json   one entry per start: versions, platform, command line, time, devices
    records.json       names and sizes of the training records, in the order in which they are read
    checkpoints/       weights, optimizer and step (see weights/checkpoints.py)
    best/              the checkpoint with the highest PQ, if the run was evaluated (see evaluations.py)
    metrics.jsonl      one line per summary interval
    evaluations.jsonl  one line per evaluation
    logs/              TensorBoard events

evaluate, export and predict need only this directory. It may be remote (gs://...). Only then is TensorFlow imported,
for its file systems.
"""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from panoptic_cli import __version__, config, storage
from panoptic_cli.categories import CategoryTable, read_categories
from panoptic_cli.config import Experiment
from panoptic_cli.errors import DataError, RunError, UsageError, listed, summarize
from panoptic_cli.locks import folder_lock
from panoptic_cli.records.files import absolute_pattern, list_record_files
from panoptic_cli.runs import resuming
from panoptic_cli.weights import checkpoint_files

_CONFIG, _CATEGORIES, _ENVIRONMENT, _RECORDS, _METRICS, _EVALUATIONS = (
    "config.yaml",
    "categories.json",
    "environment.json",
    "records.json",
    "metrics.jsonl",
    "evaluations.jsonl",
)
_PACKAGES = ("tensorflow", "keras", "numpy", "pydantic", "pycocotools", "pillow")


class RunDirectory:
    """Paths and files of one run.

    Args:
        path: the directory, local or remote. It need not exist yet.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = storage.normalize(path)

    def __str__(self) -> str:
        return self.path

    def file(self, name: str) -> str:
        """Returns the path of a file in the run directory."""
        return f"{self.path}/{name}"

    @property
    def checkpoints(self) -> str:
        """The folder of the checkpoints."""
        return self.file("checkpoints")

    @property
    def logs(self) -> str:
        """The folder of the TensorBoard events."""
        return self.file("logs")

    @property
    def metrics(self) -> str:
        """The file with one JSON line per summary interval."""
        return self.file(_METRICS)

    @property
    def evaluations(self) -> str:
        """The file with one JSON line per evaluation."""
        return self.file(_EVALUATIONS)

    @property
    def best(self) -> str:
        """The folder of the best checkpoint."""
        return self.file("best")

    @property
    def is_run(self) -> bool:
        """Whether a run was started here: the configuration is the last file that a start writes."""
        return storage.exists(self.file(_CONFIG))

    def latest_checkpoint(self) -> str | None:
        """Returns the prefix of the newest complete checkpoint, None if there is none."""
        return checkpoint_files.latest(self.checkpoints)

    def all_checkpoints(self) -> list[tuple[int, str]]:
        """Returns (step, prefix) of the complete checkpoints, oldest first."""
        return checkpoint_files.numbered(self.checkpoints)

    @staticmethod
    def has_checkpoint(prefix: str) -> bool:
        """Whether the checkpoint (still) exists."""
        return checkpoint_files.is_checkpoint(prefix)

    def check(self, experiment: Experiment, table: CategoryTable) -> list[config.Difference]:
        """Checks that a run with this configuration can start or resume here. Writes nothing.

        Args:
            experiment: the resolved configuration.
            table: the category table.

        Returns:
            The differences from the last start, none of which changes what the training computes.

        Raises:
            RunError: the directory contains a run with a different configuration, or files of something else.
        """
        if not self.is_run:
            self._check_empty()
            return []
        experiment, theirs = with_absolute_paths(experiment), with_absolute_paths(self.read_config())
        same_records = self._has_same_records(experiment)
        conflicts = resuming.conflicts(experiment, theirs)
        if same_records:  # at another place
            conflicts = [conflict for conflict in conflicts if conflict.key != resuming.TRAIN_DATA]
        problems = [resuming.describe(conflict, theirs) for conflict in conflicts]
        if same_records is False and all(conflict.key != resuming.TRAIN_DATA for conflict in conflicts):
            problems.append(f"the training records: {self.file(_RECORDS)} lists other names or sizes")
        if self.read_table().to_list() != table.to_list():
            problems.append("the category table")
        if problems:
            removable = "" if self.latest_checkpoint() else " It has no checkpoint yet, so you can also delete it."
            raise RunError(
                f"{self.path} contains a run with a different configuration. It differs in: {summarize(problems, 20)}.",
                f"Give another --model-dir, or resume the run with the settings in {self.file(_CONFIG)}.{removable}",
            )
        return config.differences(experiment, theirs)

    def start(self, experiment: Experiment, table: CategoryTable) -> None:
        """Writes the files of a new run, or updates those of the last start. Call `check` first.

        Args:
            experiment: the resolved configuration.
            table: the category table.

        Raises:
            RunError: the directory cannot be written.
        """
        with self._writing():
            storage.make_directory(self.path)
            is_new = not self.is_run
            if is_new:
                self._write_json(_CATEGORIES, table.to_list())
            if is_new or storage.read_text(self.file(_RECORDS)) is None:
                self._write_json(_RECORDS, list_record_files(experiment.task.train_data.input_path))
            self._write_json(_ENVIRONMENT, [*self._sessions(), _describe_session()])
            storage.write_text(self.file(_CONFIG), config.dump(with_absolute_paths(experiment)))

    @contextlib.contextmanager
    def only_training(self) -> Iterator[None]:
        """Keeps other trainings out of a local directory within the block. Makes it, and leaves none if it stays empty.

        Raises:
            RunError: another training is running in the directory, or it cannot be written.
        """
        if storage.is_remote(self.path):
            yield
            return
        is_new = not storage.exists(self.path)
        with self._writing():
            storage.make_directory(self.path)
        try:
            with folder_lock(Path(self.path), "panoptic train", "give another --model-dir"):
                yield
        finally:
            if is_new:
                with contextlib.suppress(OSError):  # it holds a run
                    os.rmdir(self.path)

    def withdraw(self) -> None:
        """Makes this no run again: a start that failed before its first checkpoint does not block the next one."""
        storage.remove(self.file(_CONFIG))

    def record_devices(self, devices: dict[str, Any]) -> None:
        """Adds the devices to this start's entry in environment.json."""
        sessions = self._sessions()
        if sessions:
            sessions[-1].update(devices)
            self._write_json(_ENVIRONMENT, sessions)

    def truncate_metrics(self, step: int) -> None:
        """Removes metrics and evaluations after `step`, and incomplete lines, so that no step is written twice."""
        for path in (self.metrics, self.evaluations):
            text = storage.read_text(path)
            if text is not None:
                kept = [line for line in text.splitlines() if _step_of(line) <= step]
                storage.write_text(path, "".join(f"{line}\n" for line in kept))

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RunError(
                f"The run directory {self.path} cannot be written: {error.strerror or error}.",
                "Give another --model-dir.",
            ) from error

    def _check_empty(self) -> None:
        names = storage.list_directory(self.path)
        # An interrupted start leaves these. A name with a leading dot is a partial file or one of the desktop's.
        ours = [_CATEGORIES, _ENVIRONMENT, _RECORDS, _METRICS, "logs"]
        if self.latest_checkpoint() is None:
            ours.append("checkpoints")
        foreign = sorted(n for n in names if n not in ours and not n.startswith("."))
        if foreign:
            raise RunError(
                f"{self.path} is not empty and not a run directory: it holds {listed(foreign, 5)} and no {_CONFIG}.",
                "Give another --model-dir, or empty the directory first.",
            )

    def _has_same_records(self, experiment: Experiment) -> bool | None:
        """Whether the run was trained on these records, wherever they were then; None if that is not known."""
        text = storage.read_text(self.file(_RECORDS))
        ours = list_record_files(experiment.task.train_data.input_path)
        try:
            return bool(json.loads(text) == ours) if text and ours else None
        except json.JSONDecodeError:
            return None

    def read_config(self) -> Experiment:
        """Returns the configuration of the last start.

        Raises:
            RunError: the file is missing or does not validate.
        """
        text = storage.read_text(self.file(_CONFIG))
        if text is None:
            raise RunError(f"{self.file(_CONFIG)} does not exist.", "Check the run directory.")
        try:
            value = yaml.safe_load(text)
            return config.validate(value if isinstance(value, dict) else {"config": value}, self.file(_CONFIG))
        except yaml.YAMLError as error:
            raise RunError(f"{self.file(_CONFIG)} is not valid YAML.", "Correct it, or start a new run.") from error
        except UsageError as error:
            raise RunError(
                f"The configuration of the run cannot be read. {error.message}",
                "It was edited, or written by another version. Correct it, or start a new run.",
            ) from error

    def read_table(self) -> CategoryTable:
        """Returns the category table.

        Raises:
            DataError: the file is missing or has no usable table.
        """
        try:
            return read_categories(self.file(_CATEGORIES))
        except DataError as error:
            raise DataError(error.message, "Copy it from the folder of the training records.") from None

    def _sessions(self) -> list[dict[str, Any]]:
        try:
            value = json.loads(storage.read_text(self.file(_ENVIRONMENT)) or "[]")
        except json.JSONDecodeError:
            return []
        return value if isinstance(value, list) else []

    def _write_json(self, name: str, value: Any) -> None:
        storage.write_text(self.file(name), json.dumps(value, indent=1) + "\n")


def with_absolute_paths(experiment: Experiment) -> Experiment:
    """Returns the configuration with absolute local paths, which a run keeps: it is used from other folders, too."""
    task = experiment.task

    def absolute(path: str | None) -> str | None:
        return path if path is None or storage.is_remote(path) else os.path.abspath(path)

    changes: dict[str, Any] = {
        name: data.model_copy(update={"input_path": absolute_pattern(data.input_path)})
        for name, data in (("train_data", task.train_data), ("validation_data", task.validation_data))
    }
    changes |= {
        name: absolute(getattr(task, name)) for name in ("annotation_file", "categories_file", "init_categories")
    }
    return experiment.model_copy(update={"task": task.model_copy(update=changes)})


def load_run(path: str | Path) -> tuple[Experiment, CategoryTable]:
    """Reads what evaluate, export and predict need of a run.

    Args:
        path: the run directory.

    Returns:
        Its configuration and its category table.

    Raises:
        RunError: the directory does not exist, is not a run directory, or has no checkpoint.
    """
    run = RunDirectory(path)
    if not run.is_run:
        if storage.is_directory(run.path):
            problem = f"{run.path} is not a run directory: it has no {_CONFIG}."
        else:
            problem = f"The run directory {run.path} does not exist."
        raise RunError(problem, "Give a run directory with --model-dir, or start one with panoptic train.")
    if run.latest_checkpoint() is None:
        raise RunError(
            f"The run {run.path} has no checkpoint yet.",
            "Continue it with panoptic train, which saves every trainer.checkpoint_interval steps.",
        )
    return run.read_config(), run.read_table()


def _step_of(line: str) -> float:
    """Returns the step of a JSON line, infinity if it is incomplete."""
    try:
        return int(json.loads(line)["step"])
    except (json.JSONDecodeError, KeyError, TypeError, ValueError):
        return float("inf")


def _describe_session() -> dict[str, Any]:
    """Returns this start's entry in environment.json."""
    versions = {"panoptic-cli": __version__}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return {
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "argv": list(sys.argv),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": versions,
    }
