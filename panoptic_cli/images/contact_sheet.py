"""Many pictures on one sheet."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import Image

from panoptic_cli.errors import UsageError
from panoptic_cli.files import atomic_path

_BACKGROUND = (32, 32, 32)
_CELL = (320, 240)  # (width, height) in pixels
_GAP = 6  # pixels
_LARGEST = 8192  # pixels along a side of a sheet of many pictures


def contact_sheet(
    images: Iterable[Image.Image], columns: int = 4, cell: tuple[int, int] = _CELL, gap: int = _GAP
) -> Image.Image:
    """Arranges pictures in rows, in their order.

    Args:
        images: the pictures. Each is shrunk as it arrives, so a generator of large pictures needs little memory.
        columns: number of pictures in a row; fewer pictures make a narrower sheet.
        cell: largest (width, height) of a picture on the sheet, in pixels; the aspect ratio is kept. If all pictures
            are smaller, cells are as large as the largest of them. Smaller pictures are centred.
        gap: pixels between pictures and around them.

    Returns:
        An RGB picture.

    Raises:
        ValueError: there are no pictures, or columns is less than 1.
    """
    if columns < 1:
        raise ValueError(f"columns must be at least 1, not {columns}")
    thumbnails = []
    for image in images:
        thumbnail = image.convert("RGB") if image.mode != "RGB" else image.copy()
        thumbnail.thumbnail(cell, Image.Resampling.LANCZOS)
        thumbnails.append(thumbnail)
    if not thumbnails:
        raise ValueError("a contact sheet needs at least one picture")
    columns = min(columns, len(thumbnails))
    rows = -(-len(thumbnails) // columns)
    width, height = (max(sides) for sides in zip(*(thumbnail.size for thumbnail in thumbnails), strict=True))
    sheet = Image.new("RGB", (columns * (width + gap) + gap, rows * (height + gap) + gap), _BACKGROUND)
    for place, thumbnail in enumerate(thumbnails):
        row, column = divmod(place, columns)
        x = gap + column * (width + gap) + (width - thumbnail.width) // 2
        y = gap + row * (height + gap) + (height - thumbnail.height) // 2
        sheet.paste(thumbnail, (x, y))
    return sheet


def sheet_format(path: Path) -> str:
    """Returns Pillow's name of the format that belongs to a sheet's file suffix.

    Raises:
        UsageError: the suffix is not that of PNG, JPEG or WebP.
    """
    formats = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
    if path.suffix.lower() not in formats:
        raise UsageError(f"{path} cannot be a contact sheet.", "Its name must end in .png, .jpg or .webp.")
    return formats[path.suffix.lower()]


def write_contact_sheet(pictures: Sequence[Path], path: Path) -> None:
    """Writes a sheet of pictures of about four by three in shape. The file is written whole or not at all.

    Args:
        pictures: picture files, at least one.
        path: file to write; its suffix chooses the format.

    Raises:
        UsageError: see `sheet_format`.
    """
    columns = math.ceil(math.sqrt(len(pictures)))
    scale = min(1.0, (_LARGEST / columns - _GAP) / _CELL[0])
    cell = (max(1, int(_CELL[0] * scale)), max(1, int(_CELL[1] * scale)))
    sheet = contact_sheet((Image.open(picture) for picture in pictures), columns, cell)
    with atomic_path(path) as partial:
        sheet.save(partial, format=sheet_format(path))
