"""`panoptic train`: trains a network, or resumes a training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from panoptic_cli import console
from panoptic_cli.errors import counted

from . import options as o
from .help_pages import HelpAll

if TYPE_CHECKING:
    from panoptic_cli.config import Experiment
RARE = (
    *("--params-override", "--categories", "--annotation-file", "--init-categories"),
    *("--strict-init", "--tpu", "--tpu-zone", "--tpu-project"),
)


def train(
    experiment: o.ExperimentName = None,
    schedule: o.ScheduleName = None,
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
            help="Global batch size. Learning rates, steps and warm-up scale with it, times --accumulate.",
            rich_help_panel=o.RUN,
        ),
    ] = None,
    accumulate: Annotated[
        int | None,
        typer.Option(
            "--accumulate",
            min=1,
            metavar="N",
            help="Batches per optimizer step. For small memories: a step equals one of the N-fold batch size, up to "
            "rounding, except that batch statistics, random draws and averages over objects are those of each batch.",
            show_default="1",
            rich_help_panel=o.RUN,
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option("--steps", min=1, metavar="N", help="Optimizer steps in total.", rich_help_panel=o.RUN),
    ] = None,
    epochs: Annotated[
        float | None,
        typer.Option(
            "--epochs",
            min=0.001,
            metavar="X",
            help="Number of epochs, instead of --steps. The schedule is scaled to fit.",
            rich_help_panel=o.RUN,
        ),
    ] = None,
    init_checkpoint: Annotated[
        str | None,
        typer.Option(
            "--init-checkpoint",
            metavar="NAME",
            envvar="PANOPTIC_INIT_CHECKPOINT",
            help="Initial weights: a published name, a path or 'none'. Names and paths are those of evaluate "
            "--checkpoint. Weights are taken as far as they fit, categories by name; 'none' is random weights.",
            rich_help_panel=o.RUN,
        ),
    ] = None,
    init_categories: Annotated[
        str | None,
        typer.Option(
            "--init-categories",
            metavar="FILE",
            help="Categories of the initial weights.",
            show_default="those of the checkpoint",
            rich_help_panel=o.RUN,
        ),
    ] = None,
    strict_init: Annotated[
        bool,
        typer.Option("--strict-init", help="Fail unless all initial weights fit.", rich_help_panel=o.RUN),
    ] = False,
    precision: o.Precision = None,
    gpus: o.Gpus = None,
    tpu: o.Tpu = None,
    tpu_zone: Annotated[
        str | None,
        typer.Option("--tpu-zone", metavar="ZONE", help="Zone of the TPU.", rich_help_panel=o.DEVICES),
    ] = None,
    tpu_project: Annotated[
        str | None,
        typer.Option("--tpu-project", metavar="ID", help="Project of the TPU.", rich_help_panel=o.DEVICES),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Do one step on a real batch; write nothing. Prints shapes, memory and time."),
    ] = False,
    print_config: Annotated[
        bool,
        typer.Option("--print-config", help="Check everything, print the configuration and stop."),
    ] = False,
    json_output: o.Json = False,
    help_all: HelpAll = False,
) -> int:
    """Train a network, or resume a run.

    Run it again to resume from the last checkpoint. Ctrl-C and SIGTERM save one first. For several workers, set
    TF_CONFIG in the environment of each.

    Examples:
        panoptic train --schedule 1x --gpus 1 --batch-size 4 --dry-run
        panoptic train --schedule 1x --gpus 8 --precision bfloat16
        panoptic train --data-dir mine --config mine.yaml --model-dir runs/mine
    """
    from panoptic_cli import config, storage
    from panoptic_cli.runs.model_source import default_run
    from panoptic_cli.training import cluster, inputs, setup, trainer

    directory = storage.normalize(model_dir or default_run(experiment))  # pathlib has made gs:/ of gs://
    resolved = setup.configure_training(
        experiment,
        o.given(
            ("task.train_data.input_path", train_data),
            ("task.validation_data.input_path", eval_data),
            ("task.annotation_file", annotation_file),
            ("task.categories_file", categories),
            ("task.train_data.global_batch_size", batch_size),
            ("trainer.train_steps", steps),
            ("trainer.gradient_accumulation_steps", accumulate),
            ("task.init_checkpoint", init_checkpoint),
            ("task.init_categories", init_categories),
            ("task.strict_init", strict_init or None),
            ("runtime.mixed_precision_dtype", precision),
            ("runtime.num_gpus", gpus),
            ("runtime.tpu", tpu),
            ("runtime.tpu_zone", tpu_zone),
            ("runtime.tpu_project", tpu_project),
        ),
        schedule=schedule,
        config_file=config_file,
        params_override=params_override,
        settings=settings or (),
        data_dir=data_dir,
        epochs=epochs,
    )
    if print_config:
        files = inputs.check(resolved, directory).record_files
        console.info(f"Would train in {directory} on {len(files)} record files. Nothing was written.")
        console.result(resolved.model_dump(mode="json"), config.dump(resolved).rstrip())
        return 0
    with cluster.leave_cluster_on_failure():
        if dry_run:
            _dry_run(resolved, directory)
            return 0
        result = trainer.train(resolved, directory)
    console.result(result.to_dict(), str(result))
    return result.exit_code


def _pictures_of_step(experiment: Experiment) -> str:
    batches, size = experiment.trainer.gradient_accumulation_steps, experiment.task.train_data.global_batch_size
    return f"{size:,}" if batches == 1 else f"{experiment.pictures_per_step:,}, in {batches:,} batches of {size:,}"


def _early_stopping(experiment: Experiment) -> str:
    config = experiment.trainer.early_stopping
    if config.patience is None:
        return "off"
    gain = f" of at least {config.min_delta:g}" if config.min_delta else ""
    return f"after {counted(config.patience, 'evaluations')} without a gain in PQ{gain}"


def _dry_run(experiment: Experiment, directory: str) -> None:
    from panoptic_cli.training.dry_run import dry_run

    found = dry_run(experiment, directory)
    memory, seconds = found.memory, found.seconds
    peaks = {f"peak memory of {name}": f"{peak / 1e9:,.2f} GB" for name, peak in memory.get("peak_device", {}).items()}
    rows = {
        "run directory": found.model_dir,
        "steps": f"{found.start_step:,} to {found.train_steps:,}",
        "pictures of a step": _pictures_of_step(experiment),
        "early stopping": _early_stopping(experiment),
        "devices": f"{found.strategy}, {found.replicas} x {found.devices[0] if found.devices else 'unknown'}",
        "parameters": f"{found.parameters['total']:,}, of which {found.parameters['trainable']:,} are trained",
        "peak memory of the process": f"{memory['peak_rss'] / 1e9:,.2f} GB",
        **peaks,
        "first batch": f"{seconds['batch']:.2f} s",
        "first step, with tracing": f"{seconds['first_step']:.2f} s",
        "one step": f"{seconds['step']:.2f} s",
    }
    console.info("This was a dry run: nothing was written.")
    console.result(
        found.to_dict(),
        console.table("Training", ["", ""], [[name, value] for name, value in rows.items()], left=2),
        console.table("Batch", ["part", "type and shape"], [[k, v] for k, v in found.batch.items()], left=2),
        console.table("Losses of the step", ["", ""], [[k, f"{v:.4f}"] for k, v in found.losses.items()]),
    )
