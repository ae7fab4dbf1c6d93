"""Following the checkpoints of a training that goes on elsewhere, and evaluating each of them once."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from panoptic_cli import console
from panoptic_cli.errors import RunError
from panoptic_cli.runs.evaluations import Evaluations, summary
from panoptic_cli.runs.run_directory import RunDirectory

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
    while not (run.is_run and run.latest_checkpoint()):
        if time.monotonic() >= deadline:
            raise RunError(
                f"{run} got no checkpoint in {timeout:g} seconds.", "Check the path, or give a longer --watch-timeout."
            )
        time.sleep(min(poll, max(deadline - time.monotonic(), 0)))


def watch(
    run: RunDirectory,
    evaluate: Callable[[str], dict[str, Any]],
    *,
    timeout: float,
    poll: float = _POLL,
    found: Callable[[int, dict[str, Any]], None] | None = None,
) -> list[dict[str, Any]]:
    """Evaluates the checkpoints of a run, oldest first, until the run is finished.

    What is found goes to the run's evaluations.jsonl, and the best checkpoint is kept, as training itself would do.
    Steps that are in that file already are left out, whoever evaluated them.

    Args:
        run: the run directory.
        evaluate: prefix of a checkpoint -> the object of `EvaluationResult.to_dict`.
        timeout: seconds without a new checkpoint after which the run is taken for dead.
        poll: seconds between two looks.
        found: is told step and figures of each evaluation.

    Returns:
        The lines written, in order.
    """
    evaluations, written = Evaluations(run), []
    tried: set[int] = set()
    last_news = time.monotonic()
    while True:
        there = run.all_checkpoints()
        done = tried | evaluations.steps()
        new = [(step, prefix) for step, prefix in there if step not in done]
        for step, prefix in new:
            tried.add(step)
            try:
                figures = summary(evaluate(prefix))
                line = {"step": step, **figures, "checkpoint": prefix, "time": time.time()}
                best = evaluations.add(line, prefix)
            except RunError as error:
                if run.has_checkpoint(prefix):
                    raise
                console.info(f"The checkpoint of step {step} was removed before its evaluation was done: {error}")
                continue
            console.info(f"Step {step} is evaluated{', the best so far' if best else ''}.")
            written.append(line)
            if found is not None:
                found(step, figures)
        now = time.monotonic()
        if new:
            last_news = now
            continue  # others may have come in the meantime
        if there and there[-1][0] >= run.read_config().trainer.train_steps:
            console.info(f"The run {run} is finished.")
            return written
        if now - last_news >= timeout:
            console.warn(f"{run} has had no new checkpoint for {timeout:g} seconds: stopped watching.")
            return written
        time.sleep(min(poll, timeout))
