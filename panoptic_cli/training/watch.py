"""Following the checkpoints of a training that runs elsewhere, and evaluating each of them once."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from panoptic_cli import console
from panoptic_cli.errors import RunError
from panoptic_cli.runs.evaluations import Evaluations, summary
from panoptic_cli.runs.plateau import reason_to_stop
from panoptic_cli.runs.run_directory import RunDirectory

if TYPE_CHECKING:
    from panoptic_cli.evaluation.evaluator import Evaluator

_POLL = 10.0  # seconds between two looks at the run directory


def wait_for_checkpoint(run: RunDirectory, timeout: float, poll: float = _POLL) -> None:
    """Waits until a run has its first checkpoint.

    Args:
        run: the run directory; it need not exist yet.
        timeout: seconds.
        poll: seconds between two looks.

    Raises:
        RunError: there was none in that time.
    """
    deadline = time.monotonic() + timeout
    announced = False
    while not (run.is_run and run.latest_checkpoint()):
        if not announced:
            console.info(f"Waiting for the first checkpoint of {run}.")
            announced = True
        if time.monotonic() >= deadline:
            raise RunError(
                f"{run} got no checkpoint within {timeout:g} seconds.",
                "Check the path, or give a longer --watch-timeout.",
            )
        time.sleep(min(poll, max(deadline - time.monotonic(), 0)))


def evaluate_run(run: RunDirectory, evaluator: Evaluator, timeout: float) -> list[dict[str, Any]]:
    """Evaluates the checkpoints of a run until it is finished; also writes TensorBoard scalars and overlays.

    Args:
        run: the run directory.
        evaluator: evaluates the run's network.
        timeout: as for `watch`.

    Returns:
        What `watch` returns.
    """
    from panoptic_cli.runs.summaries import Summaries
    from panoptic_cli.training.overlays import draw_overlays
    from panoptic_cli.training.validation import validation_tags

    summaries = Summaries(run.logs)

    def evaluate(prefix: str) -> dict[str, Any]:
        evaluator.load(prefix)
        return evaluator.evaluate().to_dict()

    def report(step: int, figures: dict[str, Any]) -> None:
        summaries.scalars(step, validation_tags(figures))
        summaries.pictures(step, "validation", draw_overlays(evaluator.predictor, evaluator.pattern))

    try:
        return watch(run, evaluate, timeout=timeout, report=report)
    finally:
        summaries.close()


def watch(
    run: RunDirectory,
    evaluate: Callable[[str], dict[str, Any]],
    *,
    timeout: float,
    poll: float = _POLL,
    report: Callable[[int, dict[str, Any]], None] | None = None,
) -> list[dict[str, Any]]:
    """Evaluates the checkpoints of a run, oldest first, until the run is finished.

    The figures go to the run's evaluations.jsonl, and the best checkpoint is kept, as in training itself. Steps that
    are in that file already are skipped, whatever evaluated them.

    Args:
        run: the run directory.
        evaluate: takes the prefix of a checkpoint, returns the object of `EvaluationResult.to_dict`.
        timeout: seconds without a new checkpoint after which to stop.
        poll: seconds between two looks.
        report: called with step and figures after each evaluation.

    Returns:
        The lines written, in order.
    """
    evaluations, written = Evaluations(run), []
    tried: set[int] = set()
    last_news = time.monotonic()
    while True:
        checkpoints = run.all_checkpoints()
        done = tried | evaluations.steps()
        new = [(step, prefix) for step, prefix in checkpoints if step not in done]
        for step, prefix in new:
            tried.add(step)
            try:
                figures = summary(evaluate(prefix))
                line = {"step": step, **figures, "checkpoint": prefix, "time": time.time()}
                best = evaluations.add(line, prefix)
            except RunError as error:
                if run.has_checkpoint(prefix):
                    raise
                console.info(f"The checkpoint of step {step} was removed before its evaluation was finished: {error}")
                continue
            console.info(f"Step {step} is evaluated{', the best so far' if best else ''}.")
            written.append(line)
            if report is not None:
                report(step, figures)
        now = time.monotonic()
        if new:
            last_news = now
            continue  # there may be others by now
        if checkpoints and checkpoints[-1][0] >= run.read_config().trainer.train_steps:
            console.info(f"The run {run} is finished.")
            return written
        reason = reason_to_stop(evaluations.lines(), run.read_config().trainer.early_stopping)
        if reason is not None:
            console.info(f"The run {run} is finished: it stops early. {reason}.")
            return written
        if now - last_news >= timeout:
            console.warn(f"{run} has had no new checkpoint for {timeout:g} seconds; the watch ends.")
            return written
        time.sleep(min(poll, timeout))
