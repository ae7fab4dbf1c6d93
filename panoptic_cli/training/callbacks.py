"""What happens after a training step: checks, checkpoints and signals. See also reporting and validation.

A step is an optimizer step that is done, counted from the start of the run: the first is step 1. With steps_per_loop
above 1 the host sees only the last step of each loop, so an interval may be passed without being met.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from types import FrameType

from panoptic_cli import console
from panoptic_cli.errors import TrainingError
from panoptic_cli.training.cluster import leave_cluster_on_second_interrupt
from panoptic_cli.training.workers import Workers
from panoptic_cli.weights.checkpoints import Checkpoints

TOTAL_LOSS, GRADIENT_NORM = "total_loss", "gradient_norm"
_AGREE_EVERY = 5  # steps; then the workers ask each other whether one of them got a signal


@dataclass
class Progress:
    """The state of a training. All callbacks share one.

    Attributes:
        step: the number of steps that are done.
        previous: `step` before the last loop.
        losses: scalars of the last step by name, the total loss first.
        quality: figures of the last evaluation by name.
        rate: pictures per second of the last metrics line.
        paused: seconds since the last metrics line that were spent on saving and evaluating.
    """

    step: int
    previous: int = 0
    losses: dict[str, float] = field(default_factory=dict)
    quality: dict[str, float | None] = field(default_factory=dict)
    rate: float | None = None
    paused: float = 0.0

    def move_on(self, steps: int, losses: Mapping[str, float]) -> None:
        """Records that `steps` more steps are done. `losses` are the scalars of the last one."""
        self.previous, self.step = self.step, self.step + steps
        # TensorFlow sorts the names. The total loss goes first.
        self.losses = {name: losses[name] for name in sorted(losses, key=lambda n: n != TOTAL_LOSS)}

    def passed(self, interval: int) -> bool:
        """Whether the last loop reached or passed a multiple of `interval`."""
        return self.step // interval > self.previous // interval

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Excludes the time of the block from the rate."""
        begun = time.monotonic()
        try:
            yield
        finally:
            self.paused += time.monotonic() - begun


class Stopped(BaseException):
    """Leaves the training loop after a signal.

    Like KeyboardInterrupt, it is not an Exception: TensorFlow replaces an Exception that is raised while it traces.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class StepCallback:
    """Something that happens after each loop of steps."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress

    def after_step(self) -> None:
        """Called after each loop."""
        raise NotImplementedError


class StopOnNonFinite(StepCallback):
    """Stops when a loss or the gradient is not finite. Comes before every callback that saves.

    Args:
        progress: the state of the training.
        checkpoints: names the last good one.
        loss_scaling: whether the optimizer skips a gradient that is not finite. Then only the losses count.
        pictures: (first step, last step) -> a sentence about the pictures in the batches of these steps.
    """

    def __init__(
        self,
        progress: Progress,
        checkpoints: Checkpoints,
        *,
        loss_scaling: bool,
        pictures: Callable[[int, int], str],
    ) -> None:
        super().__init__(progress)
        self.checkpoints = checkpoints
        self.ignored = {GRADIENT_NORM} if loss_scaling else set()
        self.pictures = pictures

    def after_step(self) -> None:
        """Checks every scalar of the step.

        Raises:
            TrainingError: one is not finite. The message has the step, every loss and the pictures of the batch.
        """
        losses, step = self.progress.losses, self.progress.step
        if all(math.isfinite(value) for name, value in losses.items() if name not in self.ignored):
            return
        saved = self.checkpoints.saved_step
        kept = f"The last good checkpoint is that of step {saved}" if saved is not None else "There is no checkpoint"
        every = ", ".join(f"{name} {value:.6g}" for name, value in losses.items())
        what = "The gradient" if all(math.isfinite(v) for n, v in losses.items() if n != GRADIENT_NORM) else "A loss"
        raise TrainingError(
            f"{what} is not finite at step {step}: {every}. {self.pictures(self.progress.previous + 1, step)}",
            f"{kept}. Step {step} was not saved. Try a lower learning rate, a longer warm-up, "
            "trainer.optimizer_config.optimizer.sgd.global_clipnorm, or --precision float32.",
        )


class SaveCheckpoints(StepCallback):
    """Saves a checkpoint at every checkpoint interval and at the last step."""

    def __init__(self, progress: Progress, checkpoints: Checkpoints, *, interval: int, last_step: int) -> None:
        super().__init__(progress)
        self.checkpoints = checkpoints
        self.interval = interval
        self.last_step = last_step

    def after_step(self) -> None:
        """Saves if an interval was passed."""
        if self.progress.passed(self.interval) or self.progress.step == self.last_step:
            with self.progress.pause():
                self.checkpoints.save(self.progress.step)


class StopOnSignal(StepCallback):
    """Saves and leaves the loop after a step in which SIGTERM or SIGINT arrived. Comes last.

    The workers of a cluster ask each other every few steps, so that all of them stop at the same step.
    """

    def __init__(self, progress: Progress, checkpoints: Checkpoints, workers: Workers) -> None:
        super().__init__(progress)
        self.checkpoints = checkpoints
        self.workers = workers
        self.received: int | None = None
        self._at_once = False

    def after_step(self) -> None:
        """Saves and stops if a signal arrived."""
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
        """Lets a signal raise Stopped within the block: for work that may take minutes and changes nothing."""
        self._at_once = True
        try:
            if self.received is not None:
                raise Stopped(self.received)
            yield
        finally:
            self._at_once = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handles the signals within the block, in the main thread only. A second Ctrl-C interrupts at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        numbers = (signal.SIGTERM, signal.SIGINT)
        before = {number: signal.signal(number, self._receive) for number in numbers}
        try:
            with leave_cluster_on_second_interrupt() if self.workers.count > 1 else nullcontext():
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
            with suppress(RuntimeError):  # the signal arrived while something was being written
                console.info("Stopping after this step and saving a checkpoint. Press Ctrl-C again to stop at once.")
