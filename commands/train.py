"""`panoptic train`: trains a network, or goes on with a training."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from panoptic_cli import console
from panoptic_cli.errors import PanopticError, UsageError

from . import options as o

if TYPE_CHECKING:
    from panoptic_cli.categories import CategoryTable
    from panoptic_cli.config import Experiment


def train(
    experiment: o.ExperimentName = None,
    schedule: o.Schedule = None,
    config_file: o.ConfigFile = None,
    settings: o.Settings = None,
    params_override: o.ParamsOverride = None,
    data_dir: o.DataDir = o.DEFAULT_DATA_DIR,
    train_data: o.TrainData = None,
    eval_data: o.EvalData = None,
    annotation_file: o.AnnotationFile = None,
    categories: o.CategoriesFile = None,
    model_dir: o.ModelDir = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            "--batch-size",
            min=1,
            metavar="N",
            help="Images per step over all devices; rates, steps and warm-up scale with it.",
            rich_help_panel=o.RUN,
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option("--steps", min=1, metavar="N", help="Optimizer steps in all.", rich_help_panel=o.RUN),
    ] = None,
    epochs: Annotated[
        float | None,
        typer.Option(
            "--epochs",
            min=0.001,
            metavar="X",
            help="Passes over the data instead; the schedule is stretched to them.",
            rich_help_panel=o.RUN,
        ),
    ] = None,
    init_checkpoint: Annotated[
        str | None,
        typer.Option(
            "--init-checkpoint",
            metavar="PATH|none",
            envvar="PANOPTIC_INIT_CHECKPOINT",
            help="Weights a new run starts from; none: random.",
            rich_help_panel=o.RUN,
        ),
    ] = None,
    precision: o.Precision = None,
    gpus: o.Gpus = None,
    tpu: o.Tpu = None,
    tpu_zone: Annotated[
        str | None,
        typer.Option("--tpu-zone", metavar="ZONE", help="The TPU's zone.", rich_help_panel=o.DEVICES),
    ] = None,
    tpu_project: Annotated[
        str | None,
        typer.Option("--tpu-project", metavar="ID", help="The TPU's project.", rich_help_panel=o.DEVICES),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Build one real batch, do one step, print shapes, memory and time; write nothing."
        ),
    ] = False,
    print_config: Annotated[
        bool,
        typer.Option("--print-config", help="Check everything, print the effective configuration, and stop."),
    ] = False,
    json_output: o.Json = False,
) -> int:
    """Train a network, or go on with a training.

    The run directory holds everything. The same command again resumes at its last checkpoint; Ctrl-C and
    SIGTERM save one first. Several workers: set TF_CONFIG in the environment of each.

    Examples:
        panoptic train --schedule 1x --gpus 1 --batch-size 4 --dry-run
        panoptic train --schedule 1x --gpus 8 --precision bfloat16
        panoptic train --data-dir mine --config mine.yaml --model-dir runs/mine
    """
    from panoptic_cli import config, devices, storage
    from panoptic_cli.runs.categories import load_categories
    from panoptic_cli.training import inputs, trainer

    options = o.given(
        ("task.train_data.input_path", train_data),
        ("task.validation_data.input_path", eval_data),
        ("task.annotation_file", annotation_file),
        ("task.categories_file", categories),
        ("task.train_data.global_batch_size", batch_size),
        ("trainer.train_steps", steps),
        ("task.init_checkpoint", init_checkpoint),
        ("runtime.mixed_precision_dtype", precision),
        ("runtime.num_gpus", gpus),
        ("runtime.tpu", tpu),
        ("runtime.tpu_zone", tpu_zone),
        ("runtime.tpu_project", tpu_project),
    )
    options = [(key, None if key == "task.init_checkpoint" and value == "none" else value) for key, value in options]
    name = experiment or config.DEFAULT_EXPERIMENT

    def load(extra: list[tuple[str, Any]]) -> Experiment:
        return config.load_experiment(
            name,
            schedule=schedule,
            config_file=config_file,
            params_override=config.split_params(params_override or ""),
            settings=settings or (),
            options=[*options, *extra],
        )

    effective = load([])
    extra = _default_data(effective, data_dir)
    effective = load(extra) if extra else effective
    if batch_size is not None or epochs is not None:
        if epochs is not None and steps is not None:
            raise UsageError("--epochs and --steps both give the length.", "Leave one of them out.")
        pictures = inputs.count_pictures(effective.task.train_data.input_path) if epochs is not None else None
        preset = config.load_experiment(name, schedule=schedule)
        scaled = config.scale_schedule(effective, preset, epochs=epochs, pictures=pictures)
        effective = load([*extra, *scaled.changes])
        if scaled.summary:
            console.info(scaled.summary)

    directory = storage.normalize(model_dir or Path("runs") / name)  # pathlib has made gs:/ of gs://
    devices.check_devices(
        effective.runtime,
        batch_size=effective.task.train_data.global_batch_size,
        model_dir=directory,
        train_data=effective.task.train_data.input_path,
    )
    shards = inputs.check_records(effective.task.train_data.input_path)
    if effective.trainer.validation_interval:
        inputs.check_records(effective.task.validation_data.input_path, "--eval-data")
    table = load_categories(effective)
    if print_config:
        trainer.check(effective, directory, table)
        console.info(f"Would train in {directory} on {shards} record files; nothing was written.")
        console.result(effective.model_dump(mode="json"), config.dump(effective).rstrip())
        return 0
    with _leaving_a_cluster():
        if dry_run:
            _dry_run(effective, directory, table)
            return 0
        result = trainer.train(effective, directory, table)
    rate = f", {result.step - result.start_step} steps in {result.seconds:,.0f} s" if result.seconds else ""
    loss = f", total loss {result.losses['total_loss']:.4f}" if "total_loss" in result.losses else ""
    console.result(
        result.to_dict(),
        f"{result.status.replace('_', ' ')}: step {result.step} of {result.train_steps} in "
        f"{result.model_dir}{rate}{loss}",
    )
    return result.exit_code


def _dry_run(experiment: Experiment, directory: str, table: CategoryTable) -> None:
    from panoptic_cli.training.dry_run import dry_run

    found = dry_run(experiment, directory, table)
    memory, seconds = found.memory, found.seconds
    devices = {
        f"peak memory of {name}": f"{peak / 1e9:,.2f} GB" for name, peak in memory.get("peak_device", {}).items()
    }
    rows = {
        "run directory": found.model_dir,
        "steps": f"{found.start_step:,} to {found.train_steps:,}",
        "devices": f"{found.strategy}, {found.replicas} x {found.devices[0] if found.devices else 'unknown'}",
        "parameters": f"{found.parameters['total']:,}, {found.parameters['trainable']:,} of them trained",
        "peak memory of the process": f"{memory['peak_rss'] / 1e9:,.2f} GB",
        **devices,
        "first batch": f"{seconds['batch']:.2f} s",
        "first step, with tracing": f"{seconds['first_step']:.2f} s",
        "a step": f"{seconds['step']:.2f} s",
    }
    console.info("This was a dry run: nothing was written.")
    console.result(
        found.to_dict(),
        console.table("Training", ["", ""], [[name, value] for name, value in rows.items()], left=2),
        console.table("Batch", ["part", "type and shape"], [[k, v] for k, v in found.batch.items()], left=2),
        console.table("Losses of the step", ["", ""], [[k, f"{v:.4f}"] for k, v in found.losses.items()]),
    )


@contextlib.contextmanager
def _leaving_a_cluster() -> Iterator[None]:
    """Ends a worker that failed at once: when Python cleans up, TensorFlow may wait for the others for ever."""
    try:
        yield
    except PanopticError as error:
        if "TF_CONFIG" not in os.environ:
            raise
        console.error(error)
        if os.environ.get("PANOPTIC_DEBUG"):
            traceback.print_exc()
        sys.stderr.flush()
        os._exit(error.exit_code)


def _default_data(experiment: Experiment, data_dir: Path) -> list[tuple[str, Any]]:
    """The record patterns below the data folder, where the configuration has none."""
    from panoptic_cli import storage

    task, folder = experiment.task, storage.normalize(data_dir)
    defaults: list[tuple[str, Any]] = []
    if not task.train_data.input_path:
        defaults.append(("task.train_data.input_path", f"{folder}/tfrecords/train-*"))
    if not task.validation_data.input_path:
        defaults.append(("task.validation_data.input_path", f"{folder}/tfrecords/val-*"))
    return defaults
