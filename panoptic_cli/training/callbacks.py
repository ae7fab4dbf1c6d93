"""What happens around the training step: checks, metrics, checkpoints, progress and signals.

Steps count optimizer steps since the start of the run and are those that are done: after the first it is 1.
With steps_per_loop above 1 the host sees the last step of each loop only: intervals act when they are passed.
"""

from __future__ import annotations

import json
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import keras
import tensorflow as tf

from panoptic_cli import console
from panoptic_cli.errors import TrainingError
from panoptic_cli.training import storage
from panoptic_cli.training.checkpoints import Checkpoints

TOTAL_LOSS = "total_loss"


@dataclass
class Progress:
    """Where the training stands; the callbacks share one.

    Attributes:
        step: steps that are done.
        previous: `step` before the last loop.
        offset: step at which the current call of fit began.
        losses: scalars of the last step by name.
        paused: seconds since the last metrics line that were no training (saving).
    """

    step: int
    previous: int = 0
    offset: int = 0
    losses: dict[str, float] = field(default_factory=dict)
    paused: float = 0.0

    def passed(self, interval: int) -> bool:
        """Whether the last loop reached or passed a multiple of `interval`."""
        return self.step // interval > self.previous // interval


class Stopped(Exception):
    """Leaves `fit` after a signal."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class StepCallback(keras.callbacks.Callback):
    """Calls `after_step` when a loop is done; subclasses read `self.progress`."""

    def __init__(self, progress: Progress) -> None:
        super().__init__()
        self.progress = progress

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Keras' hook: `batch` is the index of the last batch of the loop within this call of fit."""
        self.after_step()

    def after_step(self) -> None:
        """Does what the callback is for."""


class CountSteps(StepCallback):
    """Keeps the shared progress; goes first."""

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Notes the step and its losses."""
        self.progress.previous = self.progress.step
        self.progress.step = self.progress.offset + batch + 1
        losses = {name: float(value) for name, value in (logs or {}).items()}
        total = {TOTAL_LOSS: losses[TOTAL_LOSS]} if TOTAL_LOSS in losses else {}
        self.progress.losses = total | losses  # Keras sorts the names: what counts most goes first


class StopOnNonFinite(StepCallback):
    """Stops when a loss is not finite; goes before whatever saves."""

    def __init__(self, progress: Progress, checkpoints: Checkpoints) -> None:
        super().__init__(progress)
        self.checkpoints = checkpoints

    def after_step(self) -> None:
        """Checks every scalar of the step.

        Raises:
            TrainingError: one is not finite; names the step and every loss.
        """
        losses = self.progress.losses
        if all(map(math.isfinite, losses.values())):
            return
        saved = self.checkpoints.saved_step
        kept = f"The last good checkpoint is that of step {saved}" if saved is not None else "There is no checkpoint"
        every = ", ".join(f"{name} {value:.6g}" for name, value in losses.items())
        raise TrainingError(
            f"A loss is not finite at step {self.progress.step}: {every}.",
            f"{kept}; this step was not saved. Try a lower learning rate, a longer warm-up, "
            "trainer.optimizer_config.optimizer.sgd.global_clipnorm, or --precision float32.",
        )


class WriteMetrics(StepCallback):
    """One line in metrics.jsonl and TensorBoard scalars every summary interval and at the last step."""

    def __init__(
        self,
        progress: Progress,
        path: str,
        logs: str,
        *,
        interval: int,
        last_step: int,
        batch_size: int,
        learning_rate: Callable[[], float],
    ) -> None:
        super().__init__(progress)
        self.path = path
        self.interval = interval
        self.last_step = last_step
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.writer = tf.summary.create_file_writer(logs)
        # The clock starts after the first loop, which holds the tracing of the step.
        self._since: tuple[float, int] | None = None

    def after_step(self) -> None:
        """Writes a line when an interval was passed."""
        now, step = time.monotonic(), self.progress.step
        if self.progress.passed(self.interval) or step == self.last_step:
            self._write(now, step)
            self._restart(now, step)
        elif self._since is None:
            self._restart(now, step)

    def _restart(self, now: float, step: int) -> None:
        self._since = (now, step)
        self.progress.paused = 0.0

    def _write(self, now: float, step: int) -> None:
        rate = None
        if self._since is not None:
            seconds = max(now - self._since[0] - self.progress.paused, 1e-9)
            rate = (step - self._since[1]) * self.batch_size / seconds
        learning_rate = self.learning_rate()
        line = {
            "step": step,
            **self.progress.losses,
            "learning_rate": learning_rate,
            "images_per_second": rate,
            "time": time.time(),
        }
        storage.append_text(self.path, json.dumps(line) + "\n")
        with self.writer.as_default(step=step):
            for name, value in self.progress.losses.items():
                _scalar(f"losses/{name}", value)
            _scalar("learning_rate", learning_rate)
            if rate is not None:
                _scalar("images_per_second", rate)
        self.writer.flush()

    def close(self) -> None:
        """Closes the TensorBoard file."""
        self.writer.close()


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
            begun = time.monotonic()
            self.checkpoints.save(self.progress.step)
            self.progress.paused += time.monotonic() - begun


class StopOnSignal(StepCallback):
    """Saves and leaves `fit` after the step in which SIGTERM or SIGINT came; goes last."""

    def __init__(self, progress: Progress, checkpoints: Checkpoints) -> None:
        super().__init__(progress)
        self.checkpoints = checkpoints
        self.received: int | None = None

    def after_step(self) -> None:
        """Saves and stops when a signal came."""
        if self.received is not None:
            if self.checkpoints.saved_step != self.progress.step:
                self.checkpoints.save(self.progress.step)
            raise Stopped(self.received)

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
        if number == signal.SIGINT:
            console.info("Stopping after this step, then saving. Press Ctrl-C again to stop at once.")
        self.received = number


class ShowProgress(StepCallback):
    """The progress line, with loss and rate behind it."""

    def __init__(
        self,
        progress: Progress,
        advance: Callable[..., None],
        learning_rate: Callable[[], float],
        last_step: int,
    ) -> None:
        super().__init__(progress)
        self.advance = advance
        self.learning_rate = learning_rate
        self.last_step = last_step
        self._noted = -math.inf

    def after_step(self) -> None:
        """Moves the line on, with a new note twice a second at most: the schedule takes time."""
        now, note = time.monotonic(), None
        if now - self._noted > 0.5 or self.progress.step == self.last_step:
            loss = self.progress.losses.get(TOTAL_LOSS, math.nan)
            note, self._noted = f"loss {loss:.4f}, lr {self.learning_rate():.5f}", now
        self.advance(self.progress.step - self.progress.previous, note=note)


def _scalar(tag: str, value: float) -> None:
    """Writes what TensorBoard's scalar plugin reads; `tf.summary.scalar` needs the tensorboard package."""
    plugin = tf.compat.v1.SummaryMetadata.PluginData(plugin_name="scalars")
    metadata = tf.compat.v1.SummaryMetadata(plugin_data=plugin, data_class="DATA_CLASS_SCALAR")
    tf.summary.write(tag, tf.constant(value, tf.float32), metadata=metadata)
