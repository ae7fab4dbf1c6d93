"""`panoptic evaluate`: PQ, box AP and mask AP of a model or of a result file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from panoptic_cli import console
from panoptic_cli.errors import UsageError

from . import options as o
from .model_source import find_model
from .quality_table import average_precision_table, class_table, quality_table

if TYPE_CHECKING:
    from panoptic_cli.evaluation.report_data import ReportData

INTERRUPTED = 130  # exit code
_SCORE = "Score a result file"
_TPU = (
    "--tpu: evaluation does not run on TPUs. The fusion of things and stuff works at each picture's own size, and "
    "TPUs need shapes that are known when a program is compiled."
)


def evaluate(
    context: typer.Context,
    model_dir: o.ModelDir = None,
    checkpoint: o.Checkpoint = None,
    experiment: o.ExperimentName = None,
    config_file: o.ConfigFile = None,
    settings: o.Settings = None,
    params_override: o.ParamsOverride = None,
    data_dir: o.DataDir = o.DEFAULT_DATA_DIR,
    eval_data: o.EvalData = None,
    annotation_file: o.AnnotationFile = None,
    categories: o.CategoriesFile = None,
    limit: Annotated[
        int | None,
        typer.Option("--limit", min=1, metavar="N", help="Only the first N pictures.", rich_help_panel=o.DATA),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            "--batch-size",
            min=1,
            metavar="N",
            help="Pictures each device takes at once.",
            show_default="CPU 1, GPUs their part of the configured batch",
            rich_help_panel=o.DEVICES,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            envvar="PANOPTIC_OUTPUT",
            metavar="DIR",
            help="Folder for predictions (COCO format) and metrics.json.",
        ),
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(
            "--predictions",
            metavar="FILE",
            help="Score this COCO panoptic result JSON; no model is run.",
            rich_help_panel=_SCORE,
        ),
    ] = None,
    predictions_dir: Annotated[
        Path | None,
        typer.Option(
            "--predictions-dir",
            metavar="DIR",
            help="Its PNGs.",
            show_default="JSON's path without .json",
            rich_help_panel=_SCORE,
        ),
    ] = None,
    panoptic_annotations: Annotated[
        Path | None,
        typer.Option(
            "--panoptic-annotations",
            metavar="FILE",
            help="The ground truth's panoptic JSON.",
            rich_help_panel=_SCORE,
        ),
    ] = None,
    panoptic_masks: Annotated[
        Path | None,
        typer.Option(
            "--panoptic-masks",
            metavar="DIR",
            help="The ground truth's PNGs.",
            show_default="JSON's path without .json",
            rich_help_panel=_SCORE,
        ),
    ] = None,
    image_dir: Annotated[
        Path | None,
        typer.Option(
            "--image-dir",
            metavar="DIR",
            help="The pictures themselves, for --report.",
            show_default="the maps alone",
            rich_help_panel=_SCORE,
        ),
    ] = None,
    workers: Annotated[
        int, typer.Option("--workers", min=1, metavar="N", help="Processes.", rich_help_panel=_SCORE)
    ] = 2,
    per_class: Annotated[bool, typer.Option("--per-class", help="Also print every category.")] = False,
    report: Annotated[
        Path | None,
        typer.Option(
            "--report",
            metavar="FILE",
            help="Write an HTML page: figures, confusions, the worst and the best pictures.",
        ),
    ] = None,
    watch: Annotated[
        bool,
        typer.Option(
            "--watch",
            help="Evaluate each checkpoint as it comes.",
            rich_help_panel=o.RUN,
        ),
    ] = False,
    watch_timeout: Annotated[
        float,
        typer.Option(
            "--watch-timeout",
            min=0,
            metavar="SECONDS",
            help="How long --watch waits for the next.",
            rich_help_panel=o.RUN,
        ),
    ] = 3600,
    precision: o.Precision = None,
    gpus: o.Gpus = None,
    tpu: o.Tpu = None,
    dry_run: o.DryRun = False,
    json_output: o.Json = False,
) -> int:
    """Measure panoptic quality, box AP and mask AP.

    Without options: the run in runs/panoptic_fpn_coco on data/coco/tfrecords/val-*. With --predictions a result
    file of any model is scored instead. Ctrl-C prints the figures over what was done and writes nothing.

    Examples:
        panoptic evaluate --limit 100 --per-class
        panoptic evaluate --model-dir runs/mine --report report.html
        panoptic evaluate --predictions pred.json --panoptic-annotations val.json
    """
    if tpu is not None:
        raise UsageError(_TPU, "Use --gpus N, or leave it out for the CPU.")
    if "TF_CONFIG" in os.environ and predictions is None:
        raise UsageError("One process evaluates, not the workers of TF_CONFIG.", "Unset TF_CONFIG.")
    if output is not None and output.exists() and not output.is_dir():
        raise UsageError(f"--output: {output} is a file, not a folder.", "Give another --output.")
    if report is not None and report.is_dir():
        raise UsageError(f"--report: {report} is a folder.", "Give the HTML file to write.")
    if image_dir is not None and not image_dir.is_dir():
        raise UsageError(f"--image-dir: the folder {image_dir} does not exist.", "Check the path.")
    if predictions is not None:
        if checkpoint is not None or _typed(context, "model_dir"):
            raise UsageError("--predictions scores a file: leave --model-dir and --checkpoint out.")
        _score_file(
            predictions,
            predictions_dir,
            panoptic_annotations,
            panoptic_masks,
            image_dir,
            workers,
            per_class,
            output,
            report,
            dry_run,
        )
        return 0
    for name in ("predictions_dir", "panoptic_annotations", "panoptic_masks", "image_dir", "workers"):
        if _typed(context, name):
            raise UsageError(f"--{name.replace('_', '-')} goes with --predictions.")
    from panoptic_cli import storage
    from panoptic_cli.training import inputs

    # A run knows where its own data was: --data-dir on the command line asks for other data.
    if eval_data is None and _typed(context, "data_dir"):
        eval_data = f"{storage.normalize(data_dir)}/tfrecords/val-*"
    if watch:
        from .watch_run import await_run, check_watch

        check_watch(checkpoint=checkpoint, output=output, report=report)
        if not dry_run:
            await_run(model_dir, experiment, watch_timeout)
    source = find_model(
        model_dir,
        checkpoint,
        experiment=experiment,
        config_file=config_file,
        params_override=params_override,
        settings=settings,
        options=o.given(
            ("task.validation_data.input_path", eval_data),
            ("task.annotation_file", annotation_file),
            ("task.categories_file", categories),
            ("runtime.mixed_precision_dtype", precision),
            ("runtime.num_gpus", gpus),
        ),
        records_dir=Path(data_dir) / "tfrecords",
    )
    pattern = source.experiment.task.validation_data.input_path or f"{storage.normalize(data_dir)}/tfrecords/val-*"
    shards = inputs.check_records(pattern, "--eval-data")
    if dry_run:
        plan = {"checkpoint": source.checkpoint, "records": pattern, "shards": shards, "limit": limit}
        console.result(plan, f"Would evaluate {source.checkpoint} on {pattern} ({shards} shards).")
        return 0
    from panoptic_cli.startup import import_tensorflow

    import_tensorflow()
    from panoptic_cli.evaluation.evaluator import default_batch_size
    from panoptic_cli.evaluation.evaluator import evaluate as run_evaluation
    from panoptic_cli.evaluation.report_data import ReportData
    from panoptic_cli.inference.predictor import inference_strategy, load_model

    strategy = inference_strategy(source.experiment, gpus)
    model = load_model(source.experiment, source.table, source.checkpoint, strategy)
    batch_size = batch_size or default_batch_size(model)
    annotations = source.experiment.task.annotation_file
    if watch:
        from .watch_run import watch_run

        watch_run(model, source.checkpoint, pattern, batch_size, limit, watch_timeout)
        return 0
    report_data = ReportData(source.table) if report is not None else None
    result = run_evaluation(
        model,
        pattern,
        batch_size=batch_size,
        limit=limit,
        annotation_file=Path(annotations) if annotations else None,
        output_dir=output,
        report=report_data,
        keep_partial=True,
    )
    data = result.to_dict()
    if not result.partial:
        _write_metrics(data, output)
        _write_report(report, source.checkpoint, data, report_data)
    tables = [quality_table(data["panoptic"]), average_precision_table(data["box"], data["mask"])]
    if per_class:
        tables.append(class_table(data["panoptic"], source.table, data["semantic"]))
    mean_iou = data["semantic"]["mIoU"]
    console.result(
        data,
        *tables,
        ("interrupted after " if result.partial else "")
        + f"{result.images} images, {result.images_per_second:.2f} images/s"
        + (f", semantic mIoU {100 * mean_iou:.1f}" if mean_iou is not None else "")
        + (f", step {result.step}" if result.step is not None else "")
        + (f", predictions in {output}" if output and not result.partial else "")
        + (f", report in {report}" if report and not result.partial else ""),
    )
    return INTERRUPTED if result.partial else 0


def _typed(context: typer.Context, name: str) -> bool:
    """Whether an option stands on the command line, not in the environment."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _score_file(
    predictions: Path,
    predictions_dir: Path | None,
    annotations: Path | None,
    masks_dir: Path | None,
    image_dir: Path | None,
    workers: int,
    per_class: bool,
    output: Path | None,
    report: Path | None,
    dry_run: bool,
) -> None:
    from panoptic_cli.evaluation.result_files import score_files

    if annotations is None:
        raise UsageError("--predictions needs the ground truth.", "Give --panoptic-annotations panoptic_val2017.json.")
    if dry_run:
        console.result(
            {"predictions": str(predictions), "panoptic_annotations": str(annotations)},
            f"Would score {predictions} against {annotations}.",
        )
        return
    result = score_files(
        predictions,
        predictions_dir,
        annotations,
        masks_dir,
        workers,
        for_report=report is not None,
        image_dir=image_dir,
    )
    table, collected = result.pop("table"), result.pop("report")
    for warning in result.pop("warnings", []):
        console.warn(warning)
    images, rate = result.pop("images"), result.pop("images_per_second")
    result.pop("seconds", None)
    data: dict[str, Any] = {"panoptic": result, "images": images, "images_per_second": rate}
    _write_metrics(data, output)
    _write_report(report, str(predictions), data, collected)
    tables = [quality_table(result)]
    if per_class:
        tables.append(class_table(result, table))
    console.result(data, *tables, f"{images} images, {rate:.1f} images/s" + (f", report in {report}" if report else ""))


def _write_report(path: Path | None, subject: str, data: dict[str, Any], collected: ReportData | None) -> None:
    if path is not None and collected is not None:
        from panoptic_cli.evaluation.report import write_report

        write_report(path, subject, data, collected)


def _write_metrics(data: dict[str, Any], output: Path | None) -> None:
    if output is not None:
        from panoptic_cli.files import write_json

        write_json(output / "metrics.json", data)
