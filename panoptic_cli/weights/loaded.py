"""What was loaded from a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Loaded:
    """One load.

    Attributes:
        prefix: the checkpoint.
        variables: how many were assigned.
        parameters: how many numbers they hold.
        backbone_only: whether the heads were left as they were.
        step: training step of the weights; None where the checkpoint does not tell.
        averaged: whether they are moving averages of the weights of the training.
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
