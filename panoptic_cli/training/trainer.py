"""Training: from a configuration to a trained run directory."""

from __future__ import annotations

import contextlib
import signal
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from panoptic_cli import console
from panoptic_cli.categories import CategoryTable
from panoptic_cli.config import Experiment
from panoptic_cli.errors import INTERRUPTED, RunError
from panoptic_cli.training.session import Session, prepare

if TYPE_CHECKING:
    import tensorflow as tf

    from panoptic_cli.runs.summaries import Summaries
    from panoptic_cli.training.callbacks import Progress, StepCallback, StopOnSignal
    from panoptic_cli.training.early_stopping import StopEarly
    from panoptic_cli.training.validation import Validate

_TERMINATED = 143  # exit code after SIGTERM: 128 + SIGTERM, as in a shell
_EXIT_CODES = {
    "finished": 0,
    "stopped_early": 0,
    "already_finished": 0,
    "interrupted": INTERRUPTED,
    "preempted": _TERMINATED,
}


@dataclass(frozen=True)
class TrainResult:
    """How a training ended.

    Attributes:
        model_dir: the run directory.
        status: "finished", "stopped_early" (PQ no longer rose), "already_finished", "interrupted" (Ctrl-C) or
            "preempted" (SIGTERM).
        start_step: the step at which this process started.
        step: the step at which it stopped.
        train_steps: the length of the training.
        checkpoint: prefix of the newest checkpoint.
        seconds: wall time of the steps.
        losses: scalars of the last step by name.
    """

    model_dir: str
    status: str
    start_step: int
    step: int
    train_steps: int
    checkpoint: str | None
    seconds: float
    losses: dict[str, float] = field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        """The process's exit code."""
        return _EXIT_CODES[self.status]

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields for `--json`."""
        return asdict(self)

    def __str__(self) -> str:
        rate = f", {self.step - self.start_step} steps in {self.seconds:,.0f} s" if self.seconds else ""
        loss = f", total loss {self.losses['total_loss']:.4f}" if "total_loss" in self.losses else ""
        status = self.status.replace("_", " ")
        return f"{status}: step {self.step} of {self.train_steps} in {self.model_dir}{rate}{loss}"


def train(
    experiment: Experiment,
    model_dir: str | Path,
    table: CategoryTable | None = None,
    *,
    strategy: tf.distribute.Strategy | None = None,
) -> TrainResult:
    """Trains until `trainer.train_steps`, starting at the newest checkpoint of the run directory if it has one.

    Args:
        experiment: the resolved configuration.
        model_dir: the run directory, created if missing.
        table: the category table; None: read the one that the configuration points to.
        strategy: the devices; None: those of `runtime`.

    Returns:
        How the training ended. Ctrl-C and SIGTERM end it with a checkpoint after the current step.

    Raises:
        PanopticError: see `session.prepare`; or a loss is not finite, the data ended or cannot be read, memory ran
            out, or another worker stopped.
        KeyboardInterrupt: a second Ctrl-C stopped a worker of a cluster.
    """
    with contextlib.ExitStack() as lock:
        return _train(prepare(experiment, model_dir, table, strategy=strategy, lock=lock))


def _train(session: Session) -> TrainResult:
    """Trains, unless the run is finished."""
    experiment = session.experiment
    start, end, run = session.start, experiment.trainer.train_steps, session.run
    if start >= end:
        console.info(f"The run {run} is already finished: step {start} of {end}.")
        return TrainResult(run.path, "already_finished", start, start, end, run.latest_checkpoint(), 0.0)
    if start and (reason := _stopped_early(session)):
        console.info(
            f"The run {run} is already finished: it stopped early at step {start} of {end}. {reason}. "
            "A larger trainer.early_stopping.patience continues it."
        )
        return TrainResult(run.path, "already_finished", start, start, end, run.latest_checkpoint(), 0.0)
    if start:
        console.info(f"Resuming {run} at step {start} of {end}.")
    if session.chief:
        run.truncate_metrics(start)
    try:
        return _run(session)
    except Exception:
        if session.chief and not start and run.latest_checkpoint() is None:
            with contextlib.suppress(OSError, RunError):
                run.withdraw()
        raise


def _stopped_early(session: Session) -> str | None:
    """Returns why the evaluations of a run, up to its restored step, end it; None if they do not."""
    from panoptic_cli.runs.evaluations import Evaluations
    from panoptic_cli.runs.plateau import reason_to_stop

    lines = [line for line in Evaluations(session.run).lines() if int(line["step"]) <= session.start]
    return reason_to_stop(lines, session.experiment.trainer.early_stopping)


def _run(session: Session) -> TrainResult:
    """Trains from the session's start to the end."""
    from panoptic_cli.training import loop
    from panoptic_cli.training.callbacks import Progress, StopOnSignal, Stopped
    from panoptic_cli.training.early_stopping import StoppedEarly
    from panoptic_cli.training.failures import explained

    trainer, total = session.experiment.trainer, session.experiment.trainer.train_steps
    progress = Progress(step=session.start)
    signals = StopOnSignal(progress, session.checkpoints, session.workers)
    status, begun, at_once = "finished", time.monotonic(), False
    with contextlib.ExitStack() as stack:
        stack.enter_context(signals.listening())
        stack.enter_context(explained(session.experiment, session.workers.count))
        try:
            callbacks = _callbacks(session, progress, signals, stack)
            loop.run_steps(
                session.model,
                session.strategy,
                session.dataset,
                progress,
                callbacks,
                end=total,
                per_loop=trainer.steps_per_loop,
                xla=session.experiment.runtime.enable_xla,
            )
        except StoppedEarly as stop:
            status = "stopped_early"
            best = f"The best checkpoint is in {session.run.best}."
            console.info(f"Stopped early at step {progress.step} of {total}. {stop}. {best}")
        except Stopped as stop:
            status = "interrupted" if stop.number == signal.SIGINT else "preempted"
        except KeyboardInterrupt:  # a second Ctrl-C: the step may be half done, so nothing is saved
            status, at_once = "interrupted", True
    if _EXIT_CODES[status]:
        saved = session.checkpoints.saved_step
        kept = f"The checkpoint of step {saved} is kept" if saved else "There is no checkpoint yet"
        console.info(f"Stopped at step {progress.step} of {total}. {kept}. Run the same command again to resume.")
    if at_once and session.workers.count > 1:
        raise KeyboardInterrupt  # the other workers still wait for this one: see cluster
    return TrainResult(
        model_dir=session.run.path,
        status=status,
        start_step=session.start,
        step=progress.step,
        train_steps=total,
        checkpoint=session.run.latest_checkpoint(),
        seconds=time.monotonic() - begun,
        losses=progress.losses,
    )


def _callbacks(
    session: Session, progress: Progress, signals: StopOnSignal, stack: contextlib.ExitStack
) -> list[StepCallback]:
    """Returns what happens after each step, in order. Makes up for an evaluation that an earlier process missed."""
    from panoptic_cli.runs.summaries import Summaries
    from panoptic_cli.training import callbacks as c
    from panoptic_cli.training.batch_pictures import describe_pictures
    from panoptic_cli.training.reporting import ShowProgress, WriteMetrics
    from panoptic_cli.training.schedules import build_schedule

    experiment, checkpoints = session.experiment, session.checkpoints
    trainer, total = experiment.trainer, experiment.trainer.train_steps
    schedule = build_schedule(trainer.optimizer_config, total)
    # Not the host's step: a step that loss scaling skips does not advance the schedule.
    iterations = session.model.optimizer.iterations

    def learning_rate() -> float:
        """Returns the rate of the last update."""
        return float(schedule(max(int(iterations.value.numpy()) - 1, 0)))

    check = c.StopOnNonFinite(
        progress,
        checkpoints,
        loss_scaling=experiment.runtime.mixed_precision_dtype == "float16",
        pictures=lambda first, last: describe_pictures(experiment, first, last),
    )
    save = c.SaveCheckpoints(progress, checkpoints, interval=trainer.checkpoint_interval, last_step=total)
    stop = _early_stopping(session, progress)
    if not session.chief:
        return [check, save, *stop, signals]
    summaries = Summaries(session.run.logs)
    stack.callback(summaries.close)
    validate = _validation(session, progress, signals, summaries)
    for callback in validate:
        callback.catch_up()
    if validate:  # what was made up for may have been the last one
        for early in stop:
            early.look()
    advance = stack.enter_context(console.progress("Training", total, unit="steps", start=progress.step))
    metrics = WriteMetrics(
        progress,
        session.run.metrics,
        summaries,
        interval=trainer.summary_interval,
        last_step=total,
        batch_size=experiment.pictures_per_step,
        learning_rate=learning_rate,
    )
    return [check, metrics, ShowProgress(progress, advance, learning_rate, total), save, *validate, *stop, signals]


def _early_stopping(session: Session, progress: Progress) -> list[StopEarly]:
    """Returns what ends the training early; nothing if that is off."""
    trainer = session.experiment.trainer
    if trainer.early_stopping.patience is None:
        return []
    from panoptic_cli.runs.evaluations import Evaluations
    from panoptic_cli.training import validation
    from panoptic_cli.training.early_stopping import StopEarly

    evaluates = bool(trainer.validation_interval) and validation.obstacle(session.strategy) is None
    interval = trainer.validation_interval if evaluates else trainer.checkpoint_interval
    if session.chief and not trainer.validation_interval:
        console.info(
            f"Early stopping waits for the evaluations of another process: panoptic evaluate --watch --model-dir "
            f"{session.run}. Or set trainer.validation_interval."
        )
    evaluations = Evaluations(session.run) if session.chief else None
    return [StopEarly(progress, evaluations, session.workers, trainer.early_stopping, interval=interval or 1)]


def _validation(session: Session, progress: Progress, signals: StopOnSignal, summaries: Summaries) -> list[Validate]:
    """Returns the evaluation during training; nothing if it is off or the devices cannot do it."""
    interval = session.experiment.trainer.validation_interval
    if not interval:
        return []
    from panoptic_cli.runs.evaluations import Evaluations
    from panoptic_cli.training import validation

    reason = validation.obstacle(session.strategy)
    if reason is not None:
        console.warn(
            f"Evaluation during training is disabled: {reason}. Evaluate its checkpoints from another machine or "
            f"process: panoptic evaluate --watch --model-dir {session.run}"
        )
        return []
    return [
        validation.Validate(
            progress,
            session.checkpoints,
            validation.Validator(session.experiment, session.table, session.model, summaries),
            Evaluations(session.run),
            signals,
            summaries,
            interval=interval,
            last_step=session.experiment.trainer.train_steps,
        )
    ]
