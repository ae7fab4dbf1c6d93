"""`panoptic demo`: every stage on generated data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from panoptic_cli import console

from . import options as o
from .quality_table import average_precision_table, quality_table


def demo(
    output: Annotated[
        Path,
        typer.Option("--output", envvar="PANOPTIC_OUTPUT", metavar="DIR", help="Folder for data, run and predictions."),
    ] = Path("runs/demo"),
    experiment: Annotated[
        Literal["panoptic_fpn_shapes", "eomt_shapes"],
        typer.Option("--experiment", metavar="NAME", help="panoptic_fpn_shapes or eomt_shapes."),
    ] = "panoptic_fpn_shapes",
    steps: Annotated[
        int | None,
        typer.Option("--steps", min=1, metavar="N", help="Training steps.", show_default="the preset's"),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Seed of the pictures and the training.")] = 0,
    settings: o.Settings = None,
    dry_run: o.DryRun = False,
    json_output: o.Json = False,
) -> None:
    """Run everything on generated pictures: make data, convert, train, evaluate, export, predict.

    It takes a few minutes on two CPU cores and downloads nothing. Run it again to continue an interrupted demo.

    Examples:
        panoptic demo
        panoptic demo --output runs/short --steps 100
        panoptic demo --output runs/demo-eomt --experiment eomt_shapes
    """
    if dry_run:
        console.result(
            {"output": str(output), "experiment": experiment, "seed": seed, "steps": steps},
            f"Would generate data, train {experiment}, evaluate, export and predict in {output}.",
        )
        return
    from panoptic_cli.demo.run import run_demo
    from panoptic_cli.startup import require_tensorflow

    require_tensorflow()  # before anything is generated
    result = run_demo(output, experiment, seed=seed, steps=steps, settings=tuple(settings or ()))
    data = result.to_dict()
    total = sum(result.seconds.values())
    console.result(
        data,
        quality_table(data["panoptic"]),
        average_precision_table(data["box"], data["mask"]),
        f"Done in {total:.0f} s (training {result.seconds['train']:.0f} s). Run: {result.run}",
        f"Predictions on held-out pictures: {result.overlay}",
    )
