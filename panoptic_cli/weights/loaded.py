"""The result of loading a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from panoptic_cli.weights.fitting import Fit


@dataclass(frozen=True)
class Loaded:
    """The weights that were loaded from a checkpoint.

    Attributes:
        prefix: the checkpoint.
        variables: number of variables that were assigned.
        parameters: number of values in them.
        backbone_only: whether only the backbone was loaded.
        step: training step of the weights; None if the checkpoint does not say.
        averaged: whether the weights are moving averages of the trained ones.
        fit: what was loaded of each variable; None: everything, whole.
    """

    prefix: str
    variables: int
    parameters: int
    backbone_only: bool
    step: int | None
    averaged: bool = False
    fit: Fit | None = None

    def to_dict(self) -> dict[str, Any]:
        """Returns what was loaded, for `--json`."""
        fit = self.fit
        return {
            "checkpoint": self.prefix,
            "step": self.step,
            "variables": self.variables,
            "parameters": self.parameters,
            "in_part": list(fit.rows) if fit else [],
            "missing": dict(fit.missing) if fit else {},
            "unused": list(fit.unused) if fit else [],
            "kept_categories": list(fit.kept) if fit and fit.rows else None,
            "new_categories": list(fit.new) if fit and fit.rows else None,
        }

    def __str__(self) -> str:
        if self.fit is not None and not self.fit.complete:
            averages = " (averages)" if self.averaged else ""
            step = "" if self.step is None else f", step {self.step}"
            return f"Loaded what fits from {self.prefix}{averages}{step}: {self.fit}."
        what = "backbone" if self.backbone_only else "network"
        step = "" if self.step is None else f", step {self.step}"
        size = f"{self.variables} variables, {self.parameters:,} parameters"
        what = f"averaged {what}" if self.averaged else what
        note = f" {self.fit.note}." if self.fit and self.fit.note else ""
        return f"Loaded the {what} from {self.prefix}: {size}{step}.{note}"
