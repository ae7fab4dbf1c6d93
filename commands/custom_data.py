"""Options for a data set in another layout than COCO's; make-tfrecords and inspect share them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import DATA

PANEL = "Custom data layout"

ImageDir = Annotated[
    Path | None,
    typer.Option(
        "--image-dir",
        envvar="PANOPTIC_IMAGE_DIR",
        metavar="DIR",
        help="Folder of the pictures.",
        show_default="guessed from the other two",
        rich_help_panel=PANEL,
    ),
]
PanopticAnnotations = Annotated[
    Path | None,
    typer.Option(
        "--panoptic-annotations",
        envvar="PANOPTIC_ANNOTATIONS",
        metavar="FILE",
        help="Panoptic JSON.",
        rich_help_panel=PANEL,
    ),
]
PanopticMasks = Annotated[
    Path | None,
    typer.Option(
        "--panoptic-masks",
        envvar="PANOPTIC_MASKS",
        metavar="DIR",
        help="Folder of panoptic PNGs.",
        show_default="JSON's path without .json",
        rich_help_panel=PANEL,
    ),
]
ObjectAnnotations = Annotated[
    Path | None,
    typer.Option(
        "--object-annotations",
        envvar="PANOPTIC_OBJECT_ANNOTATIONS",
        metavar="FILE",
        help="Instances JSON.",
        show_default="from the thing segments",
        rich_help_panel=PANEL,
    ),
]
CategoryMapFile = Annotated[
    Path | None,
    typer.Option(
        "--category-map",
        metavar="FILE",
        help="YAML file to rename, merge or drop categories. It maps names or ids to a new name, thing, stuff or drop.",
        rich_help_panel=DATA,
    ),
]
