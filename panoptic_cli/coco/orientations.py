"""Whether a data set was annotated on the stored pixels or on turned pictures.

Of a picture turned by 180 degrees, and of a square one, the size does not tell. Other pictures of the set do.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from panoptic_cli import console
from panoptic_cli.coco.dataset import Pictures
from panoptic_cli.coco.layout import SplitFiles
from panoptic_cli.errors import DataError
from panoptic_cli.images.encoded import read_header
from panoptic_cli.images.orientation import TRANSPOSED, is_turned

_ASKED = 1000  # pictures of a set, spread evenly: a tenth of a second
_BEGINNING = 4096  # bytes of a file that contain the name of its EXIF data


def settle_exif(files: SplitFiles, pictures: Pictures) -> SplitFiles:
    """Returns the files with `exif` set: as it is, or as most pictures of which the size tells are annotated."""
    if files.exif is not None:
        return files
    step = max(1, -(-len(pictures) // _ASKED))
    found = Counter(_is_turned(files, pictures, place) for place in range(0, len(pictures), step))
    if found[False] <= found[True]:
        return replace(files, exif="apply")
    console.info(
        f"{files.name}: annotations fit the stored pixels of pictures with an EXIF orientation (found {found[False]}, "
        "where the size tells). So the orientation is not applied where they fit both ways; --exif apply does."
    )
    return replace(files, exif="ignore")


def _is_turned(files: SplitFiles, pictures: Pictures, place: int) -> bool | None:
    """Returns whether a picture is annotated as its EXIF orientation turns it; None if it does not tell."""
    try:
        with (files.image_dir / pictures.names(place)[0]).open("rb") as file:
            beginning = file.read(_BEGINNING)
            if b"Exif\0\0" not in beginning and b"eXIf" not in beginning:
                return None
            header = read_header(beginning + file.read())
        if header.orientation not in TRANSPOSED or header.width == header.height:
            return None
        picture = pictures[place]
    except (OSError, ValueError, IndexError, DataError):
        return None  # reported when it is used
    return is_turned(header.orientation, (header.width, header.height), (picture.width, picture.height), None)
