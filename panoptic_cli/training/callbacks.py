"""What happens around the training step: checks, checkpoints and signals; see also reporting and validation.

Steps count optimizer steps since the start of the run and are those that are done: after the first it is 1.
With steps_per_loop above 1 the host sees the last step of each loop only: intervals act when they are passed.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import FrameType

from panoptic_cli import console
from panoptic_cli.errors import TrainingError
from panoptic_cli.training.workers import Workers
from panoptic_cli.weights.checkpoints import Checkpoints

TOTAL_LOSS, GRADIENT_NORM = "total_loss", "gradient_norm"
_AGREE_EVERY = 5  # steps between two questions whether a worker was told to stop


@dataclass
class Progress:
    """Where the training stands; the callbacks share one.

    Attributes:
        step: steps that are done.
        previous: `step` before the last loop.
        losses: scalars of the last step by name, the total loss first.
        quality: figures of the last evaluation by name.
        rate: pictures a second of the last metrics line.
        paused: seconds since the last metrics line that were no training (saving, evaluating).
    """

    step: int
    previous: int = 0
    losses: dict[str, float] = field(default_factory=dict)
    quality: dict[str, float | None] = field(default_factory=dict)
    rate: float | None = None
    paused: float = 0.0

    def move_on(self, steps: int, losses: Mapping[str, float]) -> None:
        """Notes that `steps` more steps are done, the last of them with these scalars."""
        self.previous, self.step = self.step, self.step + steps
        # TensorFlow sorts the names: what counts most goes first.
        self.losses = {name: losses[name] for name in sorted(losses, key=lambda n: n != TOTAL_LOSS)}

    def passed(self, interval: int) -> bool:
        """Whether the last loop reached or passed a multiple of `interval`."""
        return self.step // interval > self.previous // interval

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Leaves the time of the block out of the rate."""
        begun = time.monotonic()
        try:
            yield
        finally:
            self.paused += time.monotonic() - begun


class Stopped(BaseException):
    """Leaves the loop after a signal.

    No Exception, as KeyboardInterrupt is none: TensorFlow makes another one of each that passes while it traces.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class StepCallback:
    """Something to do after each loop of steps."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress

    def after_step(self) -> None:
        """Does it."""
        raise NotImplementedError


class StopOnNonFinite(StepCallback):
    """Stops when a loss or the gradient is not finite; goes before whatever saves.

    Args:
        progress: where the training stands.
        checkpoints: to name the last good one.
        loss_scaling: whether a gradient that is not finite is left out by the optimizer: then only losses count.
        pictures: (first step, last step) -> what is known about the pictures of these steps' batches.
    """

    def __init__(
        self,
        progress: Progress,
        checkpoints: Checkpoints,
        *,
        loss_scaling: bool,
        pictures: Callable[[int, int], str] | None = None,
    ) -> None:
        super().__init__(progress)
        self.checkpoints = checkpoints
        self.ignored = {GRADIENT_NORM} if loss_scaling else set()
        self.pictures = pictures

    def after_step(self) -> None:
        """Checks every scalar of the step.

        Raises:
            TrainingError: one is not finite; names the step, every loss and the pictures of the batch.
        """
        losses, step = self.progress.losses, self.progress.step
        if all(math.isfinite(value) for name, value in losses.items() if name not in self.ignored):
            return
        saved = self.checkpoints.saved_step
        kept = f"The last good checkpoint is that of step {saved}" if saved is not None else "There is no checkpoint"
        every = ", ".join(f"{name} {value:.6g}" for name, value in losses.items())
        what = "The gradient" if all(math.isfinite(v) for n, v in losses.items() if n != GRADIENT_NORM) else "A loss"
        batch = f" {self.pictures(self.progress.previous + 1, step)}" if self.pictures is not None else ""
        raise TrainingError(
            f"{what} is not finite at step {step}: {every}.{batch}",
            f"{kept}; this step was not saved. Try a lower learning rate, a longer warm-up, "
            "trainer.optimizer_config.optimizer.sgd.global_clipnorm, or --precision float32.",
        )


class SaveCheckpoints(StepCallback):
    """Saves every checkpoint interval and at the last step."""

    def __init__(self, progress: Progress, checkpoints: Checkpoints, *, interval: int, last_step: int) -> None:
        super().__init__(progress)
        self.checkpoints = checkpoints
        self.interval = interval
        self.last_step = last_step

    def after_step(self) -> None:
        """Saves when an interval was passed."""
        if self.progress.passed(self.interval) or self.progress.step == self.last_step:
            with self.progress.pause():
                self.checkpoints.save(self.progress.step)


class StopOnSignal(StepCallback):
    """Saves and leaves the loop after the step in which SIGTERM or SIGINT came; goes last.

    Several workers ask each other every few steps, so that all of them stop at the same one, whoever got the signal.
    """

    def __init__(self, progress: Progress, checkpoints: Checkpoints, workers: Workers) -> None:
        super().__init__(progress)
        self.checkpoints = checkpoints
        self.workers = workers
        self.received: int | None = None
        self._at_once = False

    def after_step(self) -> None:
        """Saves and stops when a signal came."""
        number = self.received or 0
        if self.workers.count > 1:
            if not self.progress.passed(_AGREE_EVERY):
                return
            number = max(self.workers.gather(number))
        if number:
            if self.checkpoints.saved_step != self.progress.step:
                self.checkpoints.save(self.progress.step)
            raise Stopped(number)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Lets a signal leave the block by raising Stopped: for what may take minutes and changes nothing."""
        self._at_once = True
        try:
            if self.received is not None:
                raise Stopped(self.received)
            yield
        finally:
            self._at_once = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Takes the signals over; a second Ctrl-C interrupts at once. Only in the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        numbers = (signal.SIGTERM, signal.SIGINT)
        before = {number: signal.signal(number, self._receive) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.received == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number
        if self._at_once:
            self._at_once = False
            raise Stopped(number)
        if number == signal.SIGINT:
            with suppress(RuntimeError):  # the signal came while something was being written
                console.info("Stopping after this step, then saving. Press Ctrl-C again to stop at once.")
