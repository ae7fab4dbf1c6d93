"""Options that several commands share, declared once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from panoptic_cli import console

DATA = "Data"
CONFIG = "Configuration"
DEVICES = "Devices"
RUN = "Run"


def _json_callback(value: bool) -> bool:
    if value:
        console.configure(json_output=True)
    return value


Json = Annotated[
    bool,
    typer.Option("--json", help="Print the result as one JSON object.", callback=_json_callback, is_eager=True),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, change nothing.")]

DataDir = Annotated[
    Path,
    typer.Option(
        "--data-dir",
        envvar="PANOPTIC_DATA_DIR",
        metavar="DIR",
        help="The data set's folder (COCO layout).",
        rich_help_panel=DATA,
    ),
]
DEFAULT_DATA_DIR = Path("data/coco")

ModelDir = Annotated[
    Path | None,
    typer.Option(
        "--model-dir",
        envvar="PANOPTIC_MODEL_DIR",
        metavar="DIR",
        help="The run directory.",
        show_default="runs/<experiment>",
        rich_help_panel=RUN,
    ),
]
Checkpoint = Annotated[
    str | None,
    typer.Option(
        "--checkpoint",
        metavar="PATH",
        help="A checkpoint (prefix or folder) instead of a run directory; takes --experiment, --config, --set.",
        rich_help_panel=RUN,
    ),
]
ExperimentName = Annotated[
    str | None,
    typer.Option(
        "--experiment",
        metavar="NAME",
        help="Preset.",
        show_default="panoptic_fpn_coco",
        rich_help_panel=CONFIG,
    ),
]
Schedule = Annotated[
    str | None,
    typer.Option(
        "--schedule",
        metavar="NAME",
        help="A schedule of the preset: 1x, 3x.",
        rich_help_panel=CONFIG,
    ),
]
ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="YAML with any part of the configuration.", rich_help_panel=CONFIG),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override one key; repeatable.", rich_help_panel=CONFIG),
]
ParamsOverride = Annotated[
    str | None,
    typer.Option(
        "--params-override",
        metavar="A.B=C,D.E=F",
        help="The same with commas, as in the Model Garden.",
        rich_help_panel=CONFIG,
    ),
]
TrainData = Annotated[
    str | None,
    typer.Option(
        "--train-data",
        envvar="PANOPTIC_TRAIN_DATA",
        metavar="PATTERN",
        help="Training records, in quotes.",
        show_default="<data-dir>/tfrecords/train-*",
        rich_help_panel=DATA,
    ),
]
EvalData = Annotated[
    str | None,
    typer.Option(
        "--eval-data",
        envvar="PANOPTIC_EVAL_DATA",
        metavar="PATTERN",
        help="Validation records, in quotes.",
        show_default="<data-dir>/tfrecords/val-*",
        rich_help_panel=DATA,
    ),
]
AnnotationFile = Annotated[
    str | None,
    typer.Option(
        "--annotation-file",
        envvar="PANOPTIC_ANNOTATION_FILE",
        metavar="FILE",
        help="COCO instances JSON for box and mask AP.",
        show_default="from the records",
        rich_help_panel=DATA,
    ),
]
CategoriesFile = Annotated[
    str | None,
    typer.Option(
        "--categories",
        envvar="PANOPTIC_CATEGORIES",
        metavar="FILE",
        help="Panoptic JSON or categories.json.",
        show_default="beside the records",
        rich_help_panel=CONFIG,
    ),
]
Precision = Annotated[
    Literal["float32", "float16", "bfloat16"] | None,
    typer.Option(
        "--precision",
        metavar="TYPE",
        help="Number format: float32, float16 or bfloat16.",
        rich_help_panel=DEVICES,
    ),
]
Gpus = Annotated[
    int | None,
    typer.Option(
        "--gpus",
        min=0,
        metavar="N",
        help="How many GPUs; 0 is the CPU.",
        show_default="all",
        rich_help_panel=DEVICES,
    ),
]
Tpu = Annotated[
    str | None,
    typer.Option("--tpu", metavar="NAME", help="TPU name or address; local on a TPU VM.", rich_help_panel=DEVICES),
]


def given(*pairs: tuple[str, Any]) -> list[tuple[str, Any]]:
    """Keeps the (configuration key, value) pairs whose option was given."""
    return [(key, value) for key, value in pairs if value is not None]
