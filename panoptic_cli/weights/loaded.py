"""The result of loading a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass


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
    """

    prefix: str
    variables: int
    parameters: int
    backbone_only: bool
    step: int | None
    averaged: bool = False

    def __str__(self) -> str:
        what = "backbone" if self.backbone_only else "network"
        step = "" if self.step is None else f", step {self.step}"
        size = f"{self.variables} variables, {self.parameters:,} parameters"
        what = f"averaged {what}" if self.averaged else what
        return f"Loaded the {what} from {self.prefix}: {size}{step}."
