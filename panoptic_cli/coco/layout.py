"""Where the files of a panoptic data set are: in COCO's layout, or as the user names them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from panoptic_cli import console
from panoptic_cli.errors import DataError, UsageError, summarize
from panoptic_cli.images.orientation import Exif

SPLIT_NAMES = ("train", "val")
CATEGORIES_FILE = "categories.json"  # beside the records


@dataclass(frozen=True)
class SplitFiles:
    """The files of one split.

    Attributes:
        name: name of the split and prefix of its shards.
        panoptic_annotations: COCO panoptic JSON.
        panoptic_masks: folder of the panoptic PNGs.
        image_dir: folder of the pictures.
        object_annotations: COCO instances JSON; None to derive objects from the thing segments.
        exif: what becomes of pictures with an EXIF orientation where the annotations fit both ways; None: what the
            other pictures of the set show, see `coco.orientations`.
    """

    name: str
    panoptic_annotations: Path
    panoptic_masks: Path
    image_dir: Path
    object_annotations: Path | None
    exif: Exif | None = None


@dataclass(frozen=True)
class OwnFiles:
    """Files of a data set in another layout, as options name them; None for what is not given.

    Attributes:
        image_dir: folder of the pictures; by default guessed from the other two.
        panoptic_annotations: COCO panoptic JSON.
        panoptic_masks: folder of the panoptic PNGs; by default the JSON's path without .json.
        object_annotations: COCO instances JSON; by default objects are derived from the thing segments.
    """

    image_dir: Path | None = None
    panoptic_annotations: Path | None = None
    panoptic_masks: Path | None = None
    object_annotations: Path | None = None

    @property
    def given(self) -> bool:
        """Whether any of the files is given."""
        return self != OwnFiles()

    def split(self, name: str | None = None) -> SplitFiles:
        """Returns the files as a split, with defaults filled in.

        Args:
            name: name of the split; None for the JSON's name without .json.

        Raises:
            UsageError: the JSON is not given, or the pictures are not in a usual place.
            DataError: a file or folder is missing.
        """
        annotations = self.panoptic_annotations
        if annotations is None:
            raise UsageError("A custom data layout also needs --panoptic-annotations.")
        masks = self.panoptic_masks or annotations.with_suffix("")
        pictures = self.image_dir or guess_image_dir(annotations, masks)
        if pictures is None and annotations.is_file() and masks.is_dir():
            raise UsageError(f"The image folder of {annotations} cannot be guessed.", "Give --image-dir.")
        # Without pictures, another file is missing too, and that one is named.
        files = SplitFiles(name or annotations.stem, annotations, masks, pictures or masks, self.object_annotations)
        missing = missing_files(files)
        if missing:
            raise DataError(f"Not found: {summarize(missing)}.", "Check the paths.")
        return files


def coco_files(data_dir: Path, split: str) -> SplitFiles:
    """Returns the paths of a split in COCO's layout. The files need not exist.

    Args:
        data_dir: folder of annotations/, {split}2017/ and panoptic_{split}2017/.
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
    """Finds the folder of the pictures by the names that data sets use.

    Args:
        panoptic_annotations: the panoptic JSON.
        panoptic_masks: the folder of the panoptic PNGs.

    Returns:
        The first of these folders that exists, otherwise None: beside the masks, their folder's name without
        "panoptic" (train2017 for panoptic_train2017); "images" beside the masks or beside the JSON; the masks' folder
        itself if it contains JPEGs.
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
    """Lists the files and folders of a split that do not exist, one line each."""
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


def find_splits(data_dir: Path, names: Sequence[str] = ()) -> list[SplitFiles]:
    """Finds the splits of a data set in COCO's layout.

    Args:
        data_dir: the data set's folder.
        names: the splits that must exist; by default every split of which any file exists.

    Returns:
        The files of each split, all of which exist.

    Raises:
        UsageError: a split has another name than COCO's.
        DataError: files are missing; names all of them and the command that downloads them.
    """
    unknown = [name for name in names if name not in SPLIT_NAMES]
    if unknown:
        raise UsageError(f"--split is train or val, not {unknown[0]!r}.")
    if not data_dir.is_dir():
        raise DataError(f"The data folder {data_dir} does not exist.", _download_hint(data_dir, names))
    splits = [coco_files(data_dir, name) for name in dict.fromkeys(names or SPLIT_NAMES)]
    if not names:
        splits = [files for files in splits if len(missing_files(files)) < 4] or splits
    splits = [_without_instances(files) for files in splits]
    problems = {files.name: missing_files(files) for files in splits}
    broken = [name for name, missing in problems.items() if missing]
    if broken:
        lines = [line for name in broken for line in problems[name]]
        raise DataError(
            f"The data set in {data_dir} is incomplete; not found: {summarize(lines)}.",
            _download_hint(data_dir, broken),
        )
    return splits


def _without_instances(files: SplitFiles) -> SplitFiles:
    """Returns a split without its instances JSON if that alone is missing, and says so."""
    alone = replace(files, object_annotations=None)
    if not missing_files(files) or missing_files(alone):
        return files
    console.warn(f"{files.object_annotations} does not exist; objects are made from the thing segments.")
    return alone


def _download_hint(data_dir: Path, splits: Sequence[str]) -> str:
    options = "".join(f" --split {name}" for name in splits) if len(splits) == 1 else ""
    return (
        f"Get COCO with 'panoptic download --data-dir {data_dir}{options}', or name your own files with "
        "--panoptic-annotations, --panoptic-masks and --image-dir."
    )
