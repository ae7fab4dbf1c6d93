"""`panoptic train`: trains a network, or goes on with a training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from panoptic_cli import config, console
from panoptic_cli.config import Experiment

from . import options as o


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
            help="Images per step over all devices. The preset's learning rates scale with it.",
            rich_help_panel=o.RUN,
        ),
    ] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, help="Optimizer steps in all.", rich_help_panel=o.RUN)
    ] = None,
    init_checkpoint: Annotated[
        str | None,
        typer.Option(
            "--init-checkpoint",
            metavar="PATH|none",
            envvar="PANOPTIC_INIT_CHECKPOINT",
            help="Weights to start a new run from; none: random. A run that is resumed does not read it.",
            rich_help_panel=o.RUN,
        ),
    ] = None,
    precision: o.Precision = None,
    gpus: o.Gpus = None,
    tpu: o.Tpu = None,
    tpu_zone: Annotated[
        str | None, typer.Option("--tpu-zone", help="The TPU's zone.", rich_help_panel=o.DEVICES)
    ] = None,
    tpu_project: Annotated[
        str | None, typer.Option("--tpu-project", help="The TPU's project.", rich_help_panel=o.DEVICES)
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Check everything, print the effective configuration, train nothing."),
    ] = False,
    json_output: o.Json = False,
) -> int:
    """Train a network, or go on with a training.

    The run directory holds everything. The same command again resumes at its last checkpoint; Ctrl-C and
    SIGTERM save one first. Several workers: set TF_CONFIG in the environment of each.
    """
    from panoptic_cli.training import inputs, storage, strategy, trainer

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
    if batch_size is not None:
        extra += _scaled_rates(effective, config.load_experiment(name, schedule=schedule))
    effective = load(extra) if extra else effective

    directory = storage.normalize(model_dir or Path("runs") / name)  # pathlib has made gs:/ of gs://
    strategy.check_devices(
        effective.runtime, batch_size=effective.task.train_data.global_batch_size, model_dir=directory
    )
    shards = inputs.check_records(effective.task.train_data.input_path)
    table = inputs.load_categories(effective)
    if dry_run:
        trainer.check(effective, directory, table)
        console.info(f"Would train in {directory} on {shards} record files; nothing was written.")
        console.result(effective.model_dump(mode="json"), config.dump(effective).rstrip())
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


def _default_data(experiment: Experiment, data_dir: Path) -> list[tuple[str, Any]]:
    """The record patterns below the data folder, where the configuration has none."""
    from panoptic_cli.training import storage

    task, folder = experiment.task, storage.normalize(data_dir)
    defaults: list[tuple[str, Any]] = []
    if not task.train_data.input_path:
        defaults.append(("task.train_data.input_path", f"{folder}/tfrecords/train-*"))
    if not task.validation_data.input_path:
        defaults.append(("task.validation_data.input_path", f"{folder}/tfrecords/val-*"))
    return defaults


def _scaled_rates(effective: Experiment, preset: Experiment) -> list[tuple[str, Any]]:
    """The preset's rates times batch size / preset's batch size (linear scaling, arXiv 1706.02677).

    A rate that a file or an override set to something else is the user's own and stays.
    """
    ours, theirs = effective.task.train_data.global_batch_size, preset.task.train_data.global_batch_size
    if ours == theirs:
        return []
    factor = ours / theirs
    mine, base = effective.trainer.optimizer_config, preset.trainer.optimizer_config
    prefix = "trainer.optimizer_config"
    changes: list[tuple[str, Any]] = []
    told: list[str] = []

    def scale(key: str, value: float | tuple[float, ...], preset_value: float | tuple[float, ...], used: bool) -> None:
        if value != preset_value:
            return
        scaled = tuple(v * factor for v in value) if isinstance(value, tuple) else value * factor
        changes.append((f"{prefix}.{key}", scaled))
        if used:
            first, last = (v[0] if isinstance(v, tuple) else v for v in (value, scaled))
            told.append(f"{key.rsplit('.', 1)[-1].replace('_', ' ')} {first:.6g} -> {last:.6g}")

    kind = mine.learning_rate.type
    scale(
        "learning_rate.stepwise.values",
        mine.learning_rate.stepwise.values,
        base.learning_rate.stepwise.values,
        kind == "stepwise",
    )
    scale(
        "learning_rate.cosine.initial_learning_rate",
        mine.learning_rate.cosine.initial_learning_rate,
        base.learning_rate.cosine.initial_learning_rate,
        kind == "cosine",
    )
    scale(
        "warmup.linear.warmup_learning_rate",
        mine.warmup.linear.warmup_learning_rate,
        base.warmup.linear.warmup_learning_rate,
        mine.warmup.type == "linear",
    )
    if told:
        console.info(
            f"Batch {ours} instead of the preset's {theirs}: learning rates scaled by {factor:.6g} ({', '.join(told)})."
        )
    return changes
