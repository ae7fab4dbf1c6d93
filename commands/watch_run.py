"""`panoptic evaluate --watch`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from panoptic_cli import console
from panoptic_cli.errors import UsageError

from .quality_table import percent

if TYPE_CHECKING:
    from panoptic_cli.inference.predictor import LoadedModel


def check_watch(**others: object) -> None:
    """Checks that the options fit --watch.

    Raises:
        UsageError: one of `others` was given.
    """
    for name, value in others.items():
        if value is not None:
            raise UsageError(f"--watch follows a run directory: leave --{name} out.")


def await_run(model_dir: Path | None, experiment: str | None, timeout: float) -> None:
    """Waits for the first checkpoint of the run."""
    from panoptic_cli import config
    from panoptic_cli.runs.run_directory import RunDirectory
    from panoptic_cli.training.watch import wait_for_checkpoint

    run = RunDirectory(model_dir or Path("runs") / (experiment or config.DEFAULT_EXPERIMENT))
    if not (run.is_run and run.latest_checkpoint()):
        console.info(f"Waiting for the first checkpoint of {run}.")
    wait_for_checkpoint(run, timeout)


def watch_run(
    model: LoadedModel, directory: str, pattern: str, batch_size: int, limit: int | None, timeout: float
) -> None:
    """Evaluates the run's checkpoints with one network, prints their figures, and writes them into the run."""
    from panoptic_cli import weights
    from panoptic_cli.evaluation.evaluator import evaluate
    from panoptic_cli.inference.predictor import Predictor
    from panoptic_cli.runs.run_directory import RunDirectory
    from panoptic_cli.runs.summaries import Summaries
    from panoptic_cli.training.overlays import draw_overlays
    from panoptic_cli.training.validation import validation_tags
    from panoptic_cli.training.watch import watch

    run = RunDirectory(directory)
    summaries, predictor = Summaries(run.logs), Predictor(model)
    annotations = model.experiment.task.annotation_file

    def one(prefix: str) -> dict[str, Any]:
        loaded = weights.load(model.network, prefix)
        current = dataclasses.replace(model, source=loaded.prefix, step=loaded.step, averaged=loaded.averaged)
        result = evaluate(
            current,
            pattern,
            batch_size=batch_size,
            limit=limit,
            annotation_file=Path(annotations) if annotations else None,
            predictor=predictor,  # traced once: it reads the network's variables, which every checkpoint fills anew
        )
        return result.to_dict()

    def found(step: int, figures: dict[str, Any]) -> None:
        summaries.scalars(step, validation_tags(figures))
        summaries.pictures(step, "validation", draw_overlays(predictor, pattern))

    try:
        lines = watch(run, one, timeout=timeout, found=found)
    finally:
        summaries.close()
    rows = [[str(x["step"]), *(percent(x[key]) for key in ("PQ", "box_AP", "mask_AP"))] for x in lines]
    console.result(
        {"evaluations": lines, "best": run.best},
        console.table("Evaluations", ["step", "PQ", "box AP", "mask AP"], rows, left=0),
    )
