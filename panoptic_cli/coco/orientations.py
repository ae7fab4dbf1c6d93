"""Whether a data set was annotated on the stored pixels or on turned pictures.

Of a picture turned by 180 degrees, and of a square one, the size does not tell. Other pictures of the set do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from panoptic_cli import console
from panoptic_cli.coco.dataset import Pictures
from panoptic_cli.coco.image_info import ListedPicture
from panoptic_cli.coco.layout import SplitFiles
from panoptic_cli.errors import DataError
from panoptic_cli.images.encoded import Header, read_header
from panoptic_cli.images.orientation import TRANSPOSED, Exif, is_turned

_ASKED = 1000  # pictures of a set, spread evenly: a tenth of a second
_BEGINNING = 4096  # bytes of a file that contain the name of its EXIF data


def settle_exif(files: SplitFiles, pictures: Pictures) -> SplitFiles:
    """Returns the files with `exif` set: as it is, or as most pictures of which the size tells are annotated."""
    if files.exif is not None:
        return files
    step = max(1, -(-len(pictures) // _ASKED))
    found = Counter(_is_turned(files, pictures, place) for place in range(0, len(pictures), step))
    return replace(files, exif=_decide(found, f"{files.name}: annotations fit"))


def exif_of_listed(pictures: Mapping[Path, ListedPicture], source: Path) -> Exif:
    """Returns what most sizes in a JSON show, whose {file: picture} are given: "apply" if they are those of views."""
    sized = [(path, picture.size) for path, picture in pictures.items() if picture.size is not None]
    step = max(1, -(-len(sized) // _ASKED))
    found = Counter(_is_listed_turned(path, size) for path, size in sized[::step])
    return _decide(found, f"{source}: sizes fit")


def _decide(found: Counter[bool | None], what_fits: str) -> Exif:
    if found[False] <= found[True]:
        return "apply"
    console.info(
        f"{what_fits} the stored pixels of pictures with an EXIF orientation (found {found[False]}, "
        "where the size tells). So the orientation is not applied where they fit both ways; --exif apply does."
    )
    return "ignore"


def _is_turned(files: SplitFiles, pictures: Pictures, place: int) -> bool | None:
    """Returns whether a picture is annotated as its EXIF orientation turns it; None if it does not tell."""
    try:
        header = _telling_header(files.image_dir / pictures.names(place)[0])
        if header is None:
            return None
        picture = pictures[place]
    except (OSError, ValueError, IndexError, DataError):
        return None  # reported when it is used
    return is_turned(header.orientation, (header.width, header.height), (picture.width, picture.height), None)


def _is_listed_turned(path: Path, size: tuple[int, int]) -> bool | None:
    """Returns the same of a picture with a (height, width)."""
    try:
        header = _telling_header(path)
    except (OSError, ValueError):
        return None
    return None if header is None else is_turned(header.orientation, (header.width, header.height), size[::-1], None)


def _telling_header(path: Path) -> Header | None:
    """Reads the header of a picture whose orientation changes its size; None for others."""
    with path.open("rb") as file:
        beginning = file.read(_BEGINNING)
        if b"Exif\0\0" not in beginning and b"eXIf" not in beginning:
            return None
        header = read_header(beginning + file.read())
    return header if header.orientation in TRANSPOSED and header.width != header.height else None
