"""Ending a training when PQ no longer rises; see `runs.plateau`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from panoptic_cli.config.schema import EarlyStopping
from panoptic_cli.runs.plateau import reason_to_stop
from panoptic_cli.training.callbacks import Progress, StepCallback
from panoptic_cli.training.workers import Workers

if TYPE_CHECKING:
    from panoptic_cli.runs.evaluations import Evaluations


class StoppedEarly(BaseException):
    """Leaves the training loop. Like `callbacks.Stopped`, it is not an Exception."""


class StopEarly(StepCallback):
    """Stops when the evaluations show no gain for long enough. Comes after everything that saves or evaluates.

    Evaluations may come from this training or from another process, so the run's file is read: at each evaluation, or
    at each checkpoint if this training does not evaluate.

    Args:
        progress: the state of the training.
        evaluations: the run's; None on a worker that does not write the run directory.
        workers: all of them stop at the same step.
        config: when to stop.
        interval: steps between two looks.
    """

    def __init__(
        self,
        progress: Progress,
        evaluations: Evaluations | None,
        workers: Workers,
        config: EarlyStopping,
        *,
        interval: int,
    ) -> None:
        super().__init__(progress)
        self.evaluations = evaluations
        self.workers = workers
        self.config = config
        self.interval = interval

    def after_step(self) -> None:
        """Looks at the evaluations at every interval.

        Raises:
            StoppedEarly: the training is over; says why.
        """
        if self.progress.passed(self.interval):
            self.look()

    def look(self) -> None:
        """Looks at the evaluations now. All workers have to call it at the same step.

        Raises:
            StoppedEarly: the training is over; says why.
        """
        reason = None
        if self.evaluations is not None:
            reason = reason_to_stop(self.evaluations.lines(), self.config)
        if max(self.workers.gather(int(reason is not None))):
            raise StoppedEarly(reason or "")
