"""`panoptic evaluate`: PQ, box AP and mask AP of a model or of a result file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from panoptic_cli import console
from panoptic_cli.errors import INTERRUPTED, UsageError, counted

from . import options as o
from .help_pages import HelpAll
from .model_loading import load, refuse_cluster
from .quality_table import evaluation_tables, watch_table

if TYPE_CHECKING:
    from panoptic_cli.evaluation.evaluation_data import EvaluationData
    from panoptic_cli.evaluation.evaluator import EvaluationResult, Evaluator
    from panoptic_cli.evaluation.report_data import ReportData
    from panoptic_cli.runs.model_source import ModelSource

_SCORE = "Score a result file"
_TPU = (
    "--tpu: evaluation does not run on TPUs. The fusion of things and stuff works at each picture's own size, but TPUs "
    "need shapes that are known at compile time."
)
_MODEL_OPTIONS = (
    *("model_dir", "checkpoint", "experiment", "config_file", "settings", "params_override", "data_dir", "eval_data"),
    *("annotation_file", "categories", "limit", "batch_size", "watch", "precision", "gpus"),
)
_SCORING_OPTIONS = ("predictions_dir", "panoptic_annotations", "panoptic_masks", "image_dir", "workers")
RARE = (
    *("--experiment", "--config", "--set", "--params-override", "--categories", "--annotation-file", "--max-pixels"),
    *("--watch-timeout", "--predictions-dir", "--panoptic-masks", "--image-dir", "--workers", "--batch-size", "--tpu"),
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
        typer.Option("--limit", min=1, metavar="N", help="Evaluate only the first N pictures.", rich_help_panel=o.DATA),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            "--batch-size",
            min=1,
            metavar="N",
            help="Batch size per device.",
            show_default="1 on the CPU, the configured batch on GPUs",
            rich_help_panel=o.DEVICES,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            envvar="PANOPTIC_OUTPUT",
            metavar="DIR",
            file_okay=False,
            help="Folder for predictions and metrics.json. The predictions are in COCO's format.",
        ),
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(
            "--predictions",
            metavar="FILE",
            help="COCO panoptic result JSON to score. No model is needed.",
            rich_help_panel=_SCORE,
        ),
    ] = None,
    predictions_dir: Annotated[
        Path | None,
        typer.Option(
            "--predictions-dir",
            metavar="DIR",
            help="The folder of its PNGs.",
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
            help="The folder of its PNGs.",
            show_default="JSON's path without .json",
            rich_help_panel=_SCORE,
        ),
    ] = None,
    image_dir: Annotated[
        Path | None,
        typer.Option(
            "--image-dir",
            metavar="DIR",
            exists=True,
            file_okay=False,
            help="The folder of the pictures, for --report.",
            show_default="only maps are shown",
            rich_help_panel=_SCORE,
        ),
    ] = None,
    max_pixels: o.MaxPixels = None,
    workers: Annotated[
        int, typer.Option("--workers", min=1, metavar="N", help="Number of processes.", rich_help_panel=_SCORE)
    ] = 2,
    per_class: Annotated[bool, typer.Option("--per-class", help="Also print the metrics of each category.")] = False,
    report: Annotated[
        Path | None,
        typer.Option(
            "--report",
            metavar="FILE",
            dir_okay=False,
            help="Write an HTML report. It has metrics, confusions, and the best and worst pictures.",
        ),
    ] = None,
    watch: Annotated[
        bool,
        typer.Option(
            "--watch",
            help="Evaluate each new checkpoint of a run.",
            rich_help_panel=o.RUN,
        ),
    ] = False,
    watch_timeout: Annotated[
        float,
        typer.Option(
            "--watch-timeout",
            min=0,
            metavar="SECONDS",
            help="How long --watch waits for a checkpoint.",
            rich_help_panel=o.RUN,
        ),
    ] = 3600,
    precision: o.Precision = None,
    gpus: o.Gpus = None,
    tpu: o.Tpu = None,
    dry_run: o.DryRun = False,
    json_output: o.Json = False,
    help_all: HelpAll = False,
) -> int:
    """Measure panoptic quality, box AP and mask AP.

    Without options, this evaluates the run in runs/panoptic_fpn_coco on data/coco/tfrecords/val-*. With --predictions,
    it scores the result file of any model. Ctrl-C prints the metrics so far and writes nothing.

    Examples:
        panoptic evaluate --limit 100 --per-class
        panoptic evaluate --model-dir runs/mine --report report.html
        panoptic evaluate --predictions pred.json --panoptic-annotations val.json
    """
    if tpu is not None:
        raise UsageError(_TPU, "Use --gpus N, or omit it for the CPU.")
    shown = _Output(output, report, per_class)
    shown.check()
    if predictions is not None:
        _refuse(context, _MODEL_OPTIONS, "--predictions scores a file: omit {}.")
        folders = (predictions_dir, panoptic_masks, image_dir)
        return _score_file(predictions, panoptic_annotations, folders, workers, shown, dry_run)
    _refuse(context, _SCORING_OPTIONS, "{} is for scoring a result file: give --predictions, or omit {}.")
    refuse_cluster("evaluates")
    if watch:
        _prepare_watch(context, model_dir, experiment, watch_timeout, dry_run)
    from panoptic_cli.runs.model_source import find_model

    eval_data, default_data = _validation_records(context, eval_data, data_dir)
    source = find_model(
        o.run_directory(context, model_dir, checkpoint),
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
        records_dir=os.path.dirname(default_data),
    )
    pattern = source.experiment.task.validation_data.input_path or default_data
    data = _read(source, pattern, limit)
    if dry_run:
        return _print_plan(source, data)
    model = load(source, gpus)
    from panoptic_cli.evaluation.evaluator import Evaluator

    evaluator = Evaluator(model, batch_size=batch_size, data=data)
    if watch:
        return _watch(source.checkpoint, evaluator, watch_timeout)
    return _evaluate(source.checkpoint, evaluator, shown)


@dataclass(frozen=True)
class _Output:
    """Which files to write and how much to print."""

    folder: Path | None
    report: Path | None
    per_class: bool

    @property
    def needs_report(self) -> bool:
        return self.report is not None

    def check(self) -> None:
        """Finds out before the work begins what cannot be written after it."""
        from panoptic_cli.files import check_writable

        if self.folder is not None:
            check_writable(self.folder / "metrics.json", "--output")
        if self.report is not None:
            check_writable(self.report, "--report")

    def write(self, subject: str, data: dict[str, Any], collected: ReportData | None) -> bool:
        """Writes metrics.json and the report; returns whether it could. The figures are printed in any case."""
        try:
            if self.folder is not None:
                from panoptic_cli.files import write_json

                write_json(self.folder / "metrics.json", data)
            if self.report is not None and collected is not None:
                from panoptic_cli.evaluation.report import write_report

                write_report(self.report, subject, data, collected)
        except OSError as error:
            console.warn(f"{error.filename or 'A file'} cannot be written: {error.strerror}.")
            return False
        return True

    def show(self, data: dict[str, Any], *notes: str) -> None:
        """Prints the figures, with notes in the last line."""
        tables = evaluation_tables(data, per_class=self.per_class)
        console.result(data, *tables, ", ".join(note for note in notes if note))


def _refuse(context: typer.Context, names: Sequence[str], message: str) -> None:
    """Raises a UsageError if one of the options is given on the command line."""
    for parameter in context.command.params:
        if parameter.name in names and o.typed(context, parameter.name):
            raise UsageError(message.replace("{}", max(parameter.opts, key=len)))


def _validation_records(context: typer.Context, eval_data: str | None, data_dir: Path) -> tuple[str | None, str]:
    """Returns the records to evaluate, None for those of the run, and the default if the run has none.

    --data-dir on the command line replaces the run's own records; PANOPTIC_DATA_DIR does not.
    """
    from panoptic_cli.config import default_records

    default = default_records(data_dir)[1]
    return (default if eval_data is None and o.typed(context, "data_dir") else eval_data), default


def _read(source: ModelSource, pattern: str, limit: int | None) -> EvaluationData:
    """Reads and checks the ground truth, before TensorFlow is imported."""
    from panoptic_cli.evaluation.evaluation_data import read_data

    return read_data(pattern, source.own_table, source.experiment.task.annotation_file, limit)


def _print_plan(source: ModelSource, data: EvaluationData) -> int:
    plan = {
        "checkpoint": source.checkpoint,
        "records": data.pattern,
        "shards": len(data.files),
        "limit": data.limit,
        "images": data.images,
    }
    images = "" if data.images is None else f", {counted(data.images, 'images')}"
    console.result(
        plan, f"Would evaluate {source.checkpoint} on {data.pattern} ({counted(len(data.files), 'shards')}{images})."
    )
    return 0


def _evaluate(subject: str, evaluator: Evaluator, shown: _Output) -> int:
    """Evaluates a model; returns the exit code."""
    from panoptic_cli.evaluation.report_data import ReportData

    report = ReportData(evaluator.model.table) if shown.needs_report else None

    def scored(result: EvaluationResult) -> None:
        if not result.partial:
            shown.write(subject, result.to_dict(), report)

    result = evaluator.evaluate(output_dir=shown.folder, report=report, keep_partial=True, scored=scored)
    data = result.to_dict()
    written = result.partial or shown.write(subject, data, report)
    mean_iou = result.semantic["mIoU"] if result.semantic else None
    shown.show(
        data,
        f"{'interrupted after ' if result.partial else ''}{counted(result.images, 'images')}",
        f"{result.images_per_second:.2f} images/s",
        f"semantic mIoU {100 * mean_iou:.1f}" if mean_iou is not None else "",
        f"step {result.step}" if result.step is not None else "",
        f"predictions in {shown.folder}" if shown.folder and not result.partial else "",
        f"report in {shown.report}" if shown.report and written and not result.partial else "",
    )
    if result.partial:
        return INTERRUPTED
    return 0 if written else 1


def _score_file(
    predictions: Path,
    annotations: Path | None,
    folders: tuple[Path | None, Path | None, Path | None],
    workers: int,
    shown: _Output,
    dry_run: bool,
) -> int:
    """Scores a result file; returns the exit code."""
    if annotations is None:
        raise UsageError("--predictions needs the ground truth.", "Give --panoptic-annotations panoptic_val2017.json.")
    if dry_run:
        plan = {"predictions": str(predictions), "panoptic_annotations": str(annotations)}
        console.result(plan, f"Would score {predictions} against {annotations}.")
        return 0
    from panoptic_cli import processes

    if workers > 1:
        processes.preload("panoptic_cli.evaluation.pair_scoring")  # while this process imports NumPy, too
    from panoptic_cli.evaluation.file_scoring import score_files
    from panoptic_cli.evaluation.result_files import ResultFiles

    scores = score_files(ResultFiles(predictions, annotations, *folders), workers, for_report=shown.needs_report)
    for warning in scores.warnings:
        console.warn(warning)
    data = scores.to_dict()
    written = shown.write(str(predictions), data, scores.report)
    shown.show(
        data,
        counted(scores.images, "images"),
        f"{scores.images_per_second:.1f} images/s",
        f"report in {shown.report}" if shown.report and written else "",
    )
    return 0 if written else 1


def _prepare_watch(
    context: typer.Context, model_dir: Path | None, experiment: str | None, timeout: float, dry_run: bool
) -> None:
    """Checks the options of --watch, and waits for the first checkpoint."""
    _refuse(context, ("checkpoint", "output", "report"), "--watch follows a run directory: omit {}.")
    if dry_run:
        return
    from panoptic_cli.runs.model_source import default_run
    from panoptic_cli.runs.run_directory import RunDirectory
    from panoptic_cli.training.watch import wait_for_checkpoint

    wait_for_checkpoint(RunDirectory(model_dir or default_run(experiment)), timeout)


def _watch(directory: str, evaluator: Evaluator, timeout: float) -> int:
    """Evaluates the checkpoints of a run; returns the exit code."""
    from panoptic_cli.runs.run_directory import RunDirectory
    from panoptic_cli.training.watch import evaluate_run

    run = RunDirectory(directory)
    lines = evaluate_run(run, evaluator, timeout)
    console.result({"evaluations": lines, "best": run.best}, watch_table(lines))
    return 0
