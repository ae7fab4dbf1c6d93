"""Options that several commands share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from panoptic_cli import console
from panoptic_cli.images.limits import MAX_PIXELS_VARIABLE

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
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only print what would be done.")]

DataDir = Annotated[
    Path,
    typer.Option(
        "--data-dir",
        envvar="PANOPTIC_DATA_DIR",
        metavar="DIR",
        help="Folder in COCO's layout.",
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
        help="Run directory.",
        show_default="runs/<experiment>",
        rich_help_panel=RUN,
    ),
]
Checkpoint = Annotated[
    str | None,
    typer.Option(
        "--checkpoint",
        metavar="NAME",
        help="A published name, hf://OWNER/REPO or a path.",
        rich_help_panel=RUN,
    ),
]
ExperimentName = Annotated[
    str | None,
    typer.Option(
        "--experiment",
        metavar="NAME",
        help="Name of a preset.",
        show_default="panoptic_fpn_coco",
        rich_help_panel=CONFIG,
    ),
]
ScheduleName = Annotated[
    str | None,
    typer.Option(
        "--schedule",
        metavar="NAME",
        help="Schedule of the preset: 1x or 3x.",
        rich_help_panel=CONFIG,
    ),
]
ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="YAML configuration file.", rich_help_panel=CONFIG),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Set one configuration key; repeatable.", rich_help_panel=CONFIG),
]
ParamsOverride = Annotated[
    str | None,
    typer.Option(
        "--params-override",
        metavar="A.B=C,D.E=F",
        help="Set several keys, separated by commas, as in the Model Garden.",
        rich_help_panel=CONFIG,
    ),
]
TrainData = Annotated[
    str | None,
    typer.Option(
        "--train-data",
        envvar="PANOPTIC_TRAIN_DATA",
        metavar="PATTERN",
        help="Training records (quote the pattern).",
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
        help="Validation records (quote the pattern).",
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
        help="COCO instances JSON, for box and mask AP.",
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
        show_default="next to the records",
        rich_help_panel=CONFIG,
    ),
]
AnnotatedExif = Annotated[
    Literal["apply", "ignore"] | None,
    typer.Option(
        "--exif",
        help="EXIF orientation where masks fit both ways.",
        show_default="as in other pictures",
        rich_help_panel=DATA,
    ),
]


def _max_pixels_callback(value: int | None) -> int | None:
    if value is not None:
        os.environ[MAX_PIXELS_VARIABLE] = str(value)
    return value


MaxPixels = Annotated[
    int | None,
    typer.Option(
        "--max-pixels",
        envvar=MAX_PIXELS_VARIABLE,
        min=1,
        metavar="N",
        help="Largest picture, in pixels.",
        show_default="by memory",
        callback=_max_pixels_callback,
        rich_help_panel=DATA,
    ),
]
Precision = Annotated[
    Literal["float32", "float16", "bfloat16"] | None,
    typer.Option(
        "--precision",
        metavar="TYPE",
        help="Precision: float32, float16 or bfloat16.",
        rich_help_panel=DEVICES,
    ),
]
Gpus = Annotated[
    int | None,
    typer.Option(
        "--gpus",
        min=0,
        metavar="N",
        help="Number of GPUs; 0 uses the CPU.",
        show_default="all",
        rich_help_panel=DEVICES,
    ),
]
Tpu = Annotated[
    str | None,
    typer.Option(
        "--tpu", metavar="NAME", help="Name or address of a TPU, or 'local' on a TPU VM.", rich_help_panel=DEVICES
    ),
]


def run_directory(context: typer.Context, model_dir: Path | None, checkpoint: str | None) -> Path | None:
    """Returns --model-dir; None if it is only in the environment while --checkpoint names something with its own.

    Raises:
        UsageError: the checkpoint names nothing.
    """
    if model_dir is None or checkpoint is None or typed(context, "model_dir"):
        return model_dir
    from panoptic_cli.weights.sources import find_source

    return None if find_source(checkpoint, tell=lambda message: None).is_fetched else model_dir


def typed(context: typer.Context, name: str) -> bool:
    """Whether an option is given on the command line, not in the environment."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def given(*pairs: tuple[str, Any]) -> list[tuple[str, Any]]:
    """Returns the (configuration key, value) pairs of options that were given."""
    return [(key, value) for key, value in pairs if value is not None]
