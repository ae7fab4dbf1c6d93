"""Where the files of a panoptic data set are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from panoptic_cli.errors import DataError, summarize

SPLITS = ("train", "val")
CATEGORIES_FILE = "categories.json"  # beside the records


@dataclass(frozen=True)
class SplitFiles:
    """The files of one split.

    Attributes:
        name: what the split is called, also the prefix of its shards.
        panoptic_annotations: COCO panoptic JSON.
        panoptic_masks: folder of the panoptic PNGs.
        image_dir: folder of the pictures.
        object_annotations: COCO instances JSON; None: objects are derived from the thing segments.
    """

    name: str
    panoptic_annotations: Path
    panoptic_masks: Path
    image_dir: Path
    object_annotations: Path | None


def coco_files(data_dir: Path, split: str) -> SplitFiles:
    """Returns the files of a split in COCO's layout, whether they exist or not.

    Args:
        data_dir: holds annotations/, {split}2017/ and panoptic_{split}2017/.
        split: "train" or "val".
    """
    annotations = data_dir / "annotations"
    return SplitFiles(
        name=split,
        panoptic_annotations=annotations / f"panoptic_{split}2017.json",
        panoptic_masks=data_dir / f"panoptic_{split}2017",
        image_dir=data_dir / f"{split}2017",
        object_annotations=annotations / f"instances_{split}2017.json",
    )


def guess_image_dir(panoptic_annotations: Path, panoptic_masks: Path) -> Path | None:
    """Finds the pictures that belong to panoptic masks by the names that data sets use.

    Args:
        panoptic_annotations: the panoptic JSON.
        panoptic_masks: the folder of the panoptic PNGs.

    Returns:
        The first folder that exists of: beside the masks, their name without "panoptic" (panoptic_train2017:
        train2017); images beside the masks or beside the JSON; the masks' own folder when JPEGs lie between
        them. None when there is none of these.
    """
    name = panoptic_masks.name
    plain = [name.removeprefix("panoptic_"), name.removesuffix("_panoptic")]
    folders = [panoptic_masks.parent / short for short in plain if short not in ("", name)]
    folders += [panoptic_masks.parent / "images", panoptic_annotations.parent / "images"]
    found = next((folder for folder in folders if folder.is_dir()), None)
    if found is None and panoptic_masks.is_dir():
        found = panoptic_masks if any(panoptic_masks.glob("*.[jJ][pP]*[gG]")) else None
    return found


def missing_files(files: SplitFiles) -> list[str]:
    """Lists what of a split does not exist, one line each."""
    missing = []
    if not files.panoptic_annotations.is_file():
        missing.append(f"panoptic annotations {files.panoptic_annotations}")
    if files.object_annotations is not None and not files.object_annotations.is_file():
        missing.append(f"object annotations {files.object_annotations}")
    if not files.panoptic_masks.is_dir():
        missing.append(f"folder of panoptic masks {files.panoptic_masks}")
    if not files.image_dir.is_dir():
        missing.append(f"folder of pictures {files.image_dir}")
    return missing


def find_splits(data_dir: Path, names: list[str] | None = None) -> list[SplitFiles]:
    """Finds the splits of a data set in COCO's layout.

    Args:
        data_dir: the data set's folder.
        names: the splits that must be there; None: every split that has any of its files.

    Returns:
        The files of each split, all of which exist.

    Raises:
        DataError: files are missing; names them all and the command that gets them.
    """
    if not data_dir.is_dir():
        raise DataError(f"The data folder {data_dir} does not exist.", _download_hint(data_dir, names or []))
    wanted = [coco_files(data_dir, name) for name in names or SPLITS]
    if names is None:
        partly = [files for files in wanted if len(missing_files(files)) < 4]
        wanted = partly or wanted
    problems = {files.name: missing_files(files) for files in wanted}
    broken = [name for name, missing in problems.items() if missing]
    if broken:
        listed = [line for name in broken for line in problems[name]]
        raise DataError(
            f"The data set in {data_dir} is not complete; not found: {summarize(listed)}.",
            _download_hint(data_dir, broken),
        )
    return wanted


def _download_hint(data_dir: Path, splits: list[str]) -> str:
    options = "".join(f" --split {name}" for name in splits) if len(splits) == 1 else ""
    return (
        f"Get COCO with 'panoptic download --data-dir {data_dir}{options}', or name your own files with "
        "--panoptic-annotations, --panoptic-masks and --image-dir."
    )
