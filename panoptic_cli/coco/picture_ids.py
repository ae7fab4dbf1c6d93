"""The image ids of picture files that are predicted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from panoptic_cli.coco.image_info import read_image_info
from panoptic_cli.coco.image_names import NameIndex
from panoptic_cli.errors import DataError, listed


def image_ids(pictures: Sequence[Path], image_info: Path | None = None) -> dict[Path, int | str]:
    """Chooses the image ids of picture files.

    Ids in the order of the files would be those of other pictures in another file, and be scored as such.

    Args:
        pictures: files.
        image_info: a COCO JSON whose `images` have the ids, found by file name; None: ids are the numbers that the
            names are, as in COCO, or else the names themselves.

    Raises:
        DataError: `image_info` cannot be read or lacks a picture.
    """
    if image_info is not None:
        return _listed_ids(pictures, image_info)
    numbers = [int(p.stem) for p in pictures if p.stem.isascii() and p.stem.isdecimal() and len(p.stem) < 19]
    if len(numbers) == len(pictures) == len(set(numbers)):
        return dict(zip(pictures, numbers, strict=True))
    names = [path.name for path in pictures]
    return dict(zip(pictures, names if len(set(names)) == len(names) else map(str, pictures), strict=True))


def _listed_ids(pictures: Sequence[Path], image_info: Path) -> dict[Path, int | str]:
    names = {picture.image_id: picture.file_name for picture in read_image_info(image_info).pictures}
    index = NameIndex(names)
    found = {path: index.find(str(path)) for path in pictures}
    missing = [path for path, identifier in found.items() if identifier is None]
    ids = {path: identifier for path, identifier in found.items() if identifier is not None}
    if missing:
        raise DataError(
            f"{image_info} does not list {len(missing)} of {len(pictures)} pictures: {listed(missing, 3)}.",
            "Predict only pictures that it lists, or omit --image-info.",
        )
    if len(set(ids.values())) < len(ids):
        raise DataError(f"{image_info} has one entry for several of the pictures.", "Predict one folder at a time.")
    return ids
