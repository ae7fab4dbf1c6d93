"""What a training reports: metrics.jsonl, TensorBoard events and the progress line."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping

from panoptic_cli import storage
from panoptic_cli.runs.summaries import Summaries
from panoptic_cli.training.callbacks import GRADIENT_NORM, TOTAL_LOSS, Progress, StepCallback


class WriteMetrics(StepCallback):
    """Writes a line of metrics.jsonl and TensorBoard scalars at every summary interval and at the last step.

    Args:
        progress: the state of the training.
        path: metrics.jsonl.
        summaries: TensorBoard's file.
        interval: steps between two lines.
        last_step: the last step of the training.
        batch_size: pictures per step.
        learning_rate: returns the rate of the last update.
    """

    def __init__(
        self,
        progress: Progress,
        path: str,
        summaries: Summaries,
        *,
        interval: int,
        last_step: int,
        batch_size: int,
        learning_rate: Callable[[], float],
    ) -> None:
        super().__init__(progress)
        self.path = path
        self.summaries = summaries
        self.interval = interval
        self.last_step = last_step
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        # The clock starts after the first loop, in which the step is traced.
        self._since: tuple[float, int] | None = None

    def after_step(self) -> None:
        """Writes a line if an interval was passed."""
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
            self.progress.rate = rate
        # A gradient may overflow if the loss is scaled. JSON has no infinity.
        losses = {name: value if math.isfinite(value) else None for name, value in self.progress.losses.items()}
        others = {"learning_rate": self.learning_rate(), "images_per_second": rate}
        storage.append_text(self.path, json.dumps({"step": step, **losses, **others, "time": time.time()}) + "\n")
        tags = {name if name == GRADIENT_NORM else f"losses/{name}": value for name, value in losses.items()}
        self.summaries.scalars(step, {**tags, **others})


class ShowProgress(StepCallback):
    """Updates the progress line, with losses, learning rate, pictures per second and quality.

    Args:
        progress: the state of the training.
        advance: see `console.progress`.
        learning_rate: returns the rate of the last update.
        last_step: the last step of the training.
    """

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
        """Advances the line. The note changes at most twice a second, because the learning rate takes time."""
        now, note = time.monotonic(), None
        if now - self._noted > 0.5 or self.progress.step == self.last_step:
            note, self._noted = self._note(), now
        self.advance(self.progress.step - self.progress.previous, note=note)

    def _note(self) -> str:
        losses = self.progress.losses
        terms = " ".join(
            f"{name.removesuffix('_loss').replace('_', '-')} {value:.3g}"
            for name, value in losses.items()
            if name not in (TOTAL_LOSS, GRADIENT_NORM)
        )
        words = [f"loss {losses.get(TOTAL_LOSS, math.nan):.4f}" + (f" ({terms})" if terms else "")]
        words.append(f"lr {self.learning_rate():.5f}")
        if self.progress.rate is not None:
            words.append(f"{self.progress.rate:.1f} images/s")
        if self.progress.quality:
            words.append(describe_quality(self.progress.quality))
        return ", ".join(words)


def describe_quality(figures: Mapping[str, float | None]) -> str:
    """Returns "PQ 39.1, box AP 38.2, mask AP 34.3": in percent, without undefined figures."""
    known = {name.replace("_", " "): value for name, value in figures.items() if value is not None}
    return ", ".join(f"{name} {100 * value:.1f}" for name, value in known.items()) or "PQ undefined"
