"""Whether the evaluations of a run show that PQ no longer rises.

The evaluations are all that is remembered. They tell a resumed run how long PQ has not risen, a run that was stopped
that it is finished, and `panoptic evaluate --watch` that no checkpoint will follow.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from panoptic_cli.config.schema import EarlyStopping
from panoptic_cli.errors import counted


class Plateau(NamedTuple):
    """How long PQ has not risen.

    Attributes:
        evaluations: how many evaluations brought no gain.
        step: the step of the last gain; None: no evaluation had a PQ.
        quality: the PQ of that step, 0..1.
        min_delta: the smallest gain that counts.
    """

    evaluations: int
    step: int | None
    quality: float
    min_delta: float

    def __str__(self) -> str:
        if self.step is None:
            return f"PQ was undefined in {counted(self.evaluations, 'evaluations')}"
        least = f" by {100 * self.min_delta:.1f}" if self.min_delta else ""
        best = f"it was {100 * self.quality:.1f} at step {self.step}"
        return f"PQ has not risen{least} in {counted(self.evaluations, 'evaluations')}; {best}"


def plateau(lines: Sequence[dict[str, Any]], config: EarlyStopping) -> Plateau:
    """Counts the evaluations since the last gain.

    Args:
        lines: the evaluations of a run, in any order. Those of another number of pictures than the newest do not count.
        config: the smallest gain.
    """
    ordered = sorted(lines, key=lambda line: int(line["step"]))
    found = Plateau(0, None, -1.0, config.min_delta)
    for line in ordered:
        if line.get("images") != ordered[-1].get("images"):
            continue
        quality = -1.0 if line.get("PQ") is None else float(line["PQ"])
        if quality > found.quality and (found.step is None or quality - found.quality >= config.min_delta):
            found = Plateau(0, int(line["step"]), quality, config.min_delta)
        else:
            found = found._replace(evaluations=found.evaluations + 1)
    return found


def reason_to_stop(lines: Sequence[dict[str, Any]], config: EarlyStopping) -> str | None:
    """Returns why a training with these evaluations is over; None if it is not."""
    if config.patience is None:
        return None
    found = plateau(lines, config)
    return str(found) if found.evaluations >= config.patience else None
