"""The run directory: one place that says everything about a training.

    config.yaml        the resolved configuration
    categories.json    the category table
    environment.json   one entry per start: versions, platform, command line, time, devices
    records.json       names and sizes of the training records, in the order in which they are read
    checkpoints/       weights, optimizer and step (see checkpoints.py)
    best/              the checkpoint with the highest PQ, where evaluations were made (see evaluations.py)
    metrics.jsonl      one line per summary interval
    evaluations.jsonl  one line per evaluation
    logs/              TensorBoard events

evaluate, export and predict need nothing but this directory. It may be remote (gs://...): then, and only
then, TensorFlow is imported for its file systems.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import platform
import sys
from pathlib import Path
from typing import Any

import yaml

from panoptic_cli import __version__, config, console, storage
from panoptic_cli.categories import CategoryTable, read_categories
from panoptic_cli.config import Experiment
from panoptic_cli.errors import DataError, RunError, UsageError, summarize
from panoptic_cli.training import inputs
from panoptic_cli.weights import checkpoint_files

CONFIG, CATEGORIES, ENVIRONMENT, RECORDS, METRICS, EVALUATIONS = (
    "config.yaml",
    "categories.json",
    "environment.json",
    "records.json",
    "metrics.jsonl",
    "evaluations.jsonl",
)

# What may differ when a run is taken up again: lengths, intervals, devices and everything that only looks at
# the model. The number format stays: it decides what the weights and the optimizer's state become.
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
_BOUND = ("runtime.mixed_precision_dtype",)
_TRAIN_DATA = "task.train_data.input_path"
_PACKAGES = ("tensorflow", "keras", "numpy", "pydantic", "pycocotools", "pillow")


class RunDirectory:
    """Paths and files of one run.

    Args:
        path: the directory, local or remote; it need not exist yet.
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
        """The directory of the checkpoints."""
        return self.file("checkpoints")

    @property
    def logs(self) -> str:
        """The directory of the TensorBoard events."""
        return self.file("logs")

    @property
    def metrics(self) -> str:
        """The file with one JSON line per summary interval."""
        return self.file(METRICS)

    @property
    def evaluations(self) -> str:
        """The file with one JSON line per evaluation."""
        return self.file(EVALUATIONS)

    @property
    def best(self) -> str:
        """The folder of the best checkpoint."""
        return self.file("best")

    @property
    def is_run(self) -> bool:
        """Whether a run was started here: the configuration is the last file that a start writes."""
        return storage.exists(self.file(CONFIG))

    def latest_checkpoint(self) -> str | None:
        """Returns the prefix of the newest complete checkpoint, None if there is none."""
        return checkpoint_files.latest(self.checkpoints)

    def all_checkpoints(self) -> list[tuple[int, str]]:
        """Returns (step, prefix) of the complete checkpoints, oldest first."""
        return checkpoint_files.numbered(self.checkpoints)

    @staticmethod
    def has_checkpoint(prefix: str) -> bool:
        """Whether the checkpoint is (still) there."""
        return checkpoint_files.exists(prefix)

    def check(self, experiment: Experiment, table: CategoryTable) -> list[str]:
        """Checks that a run of this configuration can start or go on here; writes nothing.

        Args:
            experiment: the resolved configuration.
            table: the category table.

        Returns:
            The differences from the earlier start that do not matter for the model, one line each.

        Raises:
            RunError: the directory holds the run of another configuration, or something that is no run.
        """
        if not self.is_run:
            self._check_empty()
            return []
        theirs = self.read_config()
        differences = config.differences(experiment, theirs)
        same_records = self._same_records(experiment)
        bound = [
            str(found)
            for found in differences
            if not _is_free(found.key, experiment, theirs) and not (found.key == _TRAIN_DATA and same_records)
        ]
        if same_records is False and not any(line.startswith(_TRAIN_DATA) for line in bound):
            bound.append(f"the training records: {self.file(RECORDS)} lists other names or sizes")
        if self.read_table().to_list() != table.to_list():
            bound.append("the category table")
        if bound:
            started = "" if self.latest_checkpoint() else " (it has no checkpoint yet: it may also be removed)"
            raise RunError(
                f"{self.path} holds the run of another configuration. It differs in: {summarize(bound, 20)}.",
                f"Give another --model-dir, or the settings of {self.file(CONFIG)} to resume that run{started}.",
            )
        return [str(found) for found in differences]

    def create_or_resume(self, experiment: Experiment, table: CategoryTable) -> bool:
        """Writes the files of a new run, or brings those of an earlier start up to date.

        Args:
            experiment: the resolved configuration.
            table: the category table.

        Returns:
            True where the directory was a run already.

        Raises:
            RunError: see `check`; or the directory cannot be written.
        """
        resumed = self.is_run
        for line in self.check(experiment, table):
            console.info(f"Changed since the last start: {line}.")
        try:
            storage.make_directory(self.path)
            if not resumed:
                self._write_json(CATEGORIES, table.to_list())
            if storage.read_text(self.file(RECORDS)) is None:
                self._write_json(RECORDS, inputs.record_listing(experiment.task.train_data.input_path))
            self._write_json(ENVIRONMENT, [*self._sessions(), _session()])
            storage.write_text(self.file(CONFIG), config.dump(experiment))
        except OSError as error:
            raise RunError(
                f"The run directory {self.path} cannot be written: {error.strerror or error}.",
                "Give another --model-dir.",
            ) from error
        return resumed

    def record_devices(self, devices: dict[str, Any]) -> None:
        """Adds the devices to this start's entry in environment.json."""
        sessions = self._sessions()
        if sessions:
            sessions[-1].update(devices)
            self._write_json(ENVIRONMENT, sessions)

    def truncate_metrics(self, step: int) -> None:
        """Drops metrics and evaluations after `step`, and half a line of a kill, so that no step is there twice."""
        for path in (self.metrics, self.evaluations):
            text = storage.read_text(path)
            if text is not None:
                kept = [line for line in text.splitlines() if _step_of(line) <= step]
                storage.write_text(path, "".join(f"{line}\n" for line in kept))

    def _check_empty(self) -> None:
        names = storage.list_directory(self.path)
        # An interrupted start leaves these; a name that begins with a dot is a partial file or the desktop's.
        foreign = sorted(n for n in names if n not in (CATEGORIES, ENVIRONMENT, RECORDS) and not n.startswith("."))
        if foreign:
            raise RunError(
                f"{self.path} is not empty and is no run: it holds {', '.join(foreign[:5])}"
                f"{' ...' if len(foreign) > 5 else ''} and no {CONFIG}.",
                "Give another --model-dir, or empty the directory first.",
            )

    def _same_records(self, experiment: Experiment) -> bool | None:
        """Whether the training records are those of the run, wherever they are now; None where that is not known."""
        text = storage.read_text(self.file(RECORDS))
        ours = inputs.record_listing(experiment.task.train_data.input_path)
        try:
            return bool(json.loads(text) == ours) if text and ours else None
        except json.JSONDecodeError:
            return None

    def read_config(self) -> Experiment:
        """Returns the configuration of the last start.

        Raises:
            RunError: the file is missing or does not validate.
        """
        text = storage.read_text(self.file(CONFIG))
        if text is None:
            raise RunError(f"{self.file(CONFIG)} does not exist.", "Check the run directory.")
        try:
            value = yaml.safe_load(text)
            return config.validate(value if isinstance(value, dict) else {"config": value}, self.file(CONFIG))
        except yaml.YAMLError as error:
            raise RunError(f"{self.file(CONFIG)} is not valid YAML.", "Correct it, or start a new run.") from error
        except UsageError as error:
            raise RunError(
                f"The configuration of the run cannot be read. {error.message}",
                "It was changed by hand or written by another version: correct it, or start a new run.",
            ) from error

    def read_table(self) -> CategoryTable:
        """Returns the category table.

        Raises:
            DataError: the file is missing or holds no usable table.
        """
        try:
            return read_categories(self.file(CATEGORIES))
        except DataError as error:
            raise DataError(error.message, "Copy it from the training records' folder.") from None

    def _sessions(self) -> list[dict[str, Any]]:
        try:
            value = json.loads(storage.read_text(self.file(ENVIRONMENT)) or "[]")
        except json.JSONDecodeError:
            return []
        return value if isinstance(value, list) else []

    def _write_json(self, name: str, value: Any) -> None:
        storage.write_text(self.file(name), json.dumps(value, indent=1) + "\n")


def load(path: str | Path) -> tuple[Experiment, CategoryTable]:
    """Reads a run for evaluate, export and predict.

    Args:
        path: the run directory.

    Returns:
        Its configuration and its categories.

    Raises:
        RunError: there is no such directory, it is no run, or it has no checkpoint.
    """
    run = RunDirectory(path)
    if not run.is_run:
        if storage.is_directory(run.path):
            problem = f"{run.path} has no {CONFIG}: it is no run directory."
        else:
            problem = f"The run directory {run.path} does not exist."
        raise RunError(problem, "Give --model-dir the directory of a training, or run panoptic train.")
    if run.latest_checkpoint() is None:
        raise RunError(
            f"The run {run.path} has no checkpoint yet.",
            "Go on with panoptic train: it saves every trainer.checkpoint_interval steps.",
        )
    return run.read_config(), run.read_table()


def _is_free(key: str, ours: Experiment, theirs: Experiment) -> bool:
    if key in _BOUND:
        return False
    # A cosine without decay_steps stretches over train_steps: another length is another rate at every step.
    rates = [e.trainer.optimizer_config.learning_rate for e in (ours, theirs)]
    if key == "trainer.train_steps" and any(r.type == "cosine" and r.cosine.decay_steps is None for r in rates):
        return False
    return any(key == free or (free.endswith(".") and key.startswith(free)) for free in _FREE)


def _step_of(line: str) -> float:
    try:
        return int(json.loads(line)["step"])
    except (json.JSONDecodeError, KeyError, TypeError, ValueError):
        return float("inf")


def _session() -> dict[str, Any]:
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
