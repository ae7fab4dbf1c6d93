"""Options for a data set that is not laid out as COCO's; make-tfrecords and inspect share them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from panoptic_cli.errors import DataError, UsageError, summarize

if TYPE_CHECKING:
    from panoptic_cli.coco.layout import SplitFiles

PANEL = "Data laid out otherwise"

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


def split_files(
    name: str | None,
    image_dir: Path | None,
    panoptic_annotations: Path | None,
    panoptic_masks: Path | None,
    object_annotations: Path | None,
) -> SplitFiles:
    """Completes the files that the options name.

    Args:
        name: of the split; None: the panoptic JSON's name without .json.
        image_dir: folder of the pictures; None: guessed from the other two.
        panoptic_annotations: the panoptic JSON.
        panoptic_masks: folder of the PNGs; None: the JSON's path without .json.
        object_annotations: the instances JSON, where there is one.

    Raises:
        UsageError: the JSON is not given, or the pictures are not where they usually are.
        DataError: a file or folder is missing.
    """
    from panoptic_cli.coco import layout

    if panoptic_annotations is None:
        raise UsageError("Data laid out otherwise also needs --panoptic-annotations.")
    masks = panoptic_masks or panoptic_annotations.with_suffix("")
    pictures = image_dir or layout.guess_image_dir(panoptic_annotations, masks)
    if pictures is None and panoptic_annotations.is_file() and masks.is_dir():
        raise UsageError(f"The pictures of {panoptic_annotations} are not where they usually are.", "Give --image-dir.")
    files = layout.SplitFiles(
        name or panoptic_annotations.stem,
        panoptic_annotations,
        masks,
        pictures or masks,  # without pictures something else is missing, which is named below
        object_annotations,
    )
    missing = layout.missing_files(files)
    if missing:
        raise DataError(f"Not found: {summarize(missing)}.", "Check the paths.")
    return files
