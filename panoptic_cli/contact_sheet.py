"""Many pictures on one sheet."""

from __future__ import annotations

from collections.abc import Iterable

from PIL import Image

_BACKGROUND = (32, 32, 32)


def contact_sheet(
    images: Iterable[Image.Image], columns: int = 4, cell: tuple[int, int] = (320, 240), gap: int = 6
) -> Image.Image:
    """Arranges pictures in rows, in their order.

    Args:
        images: the pictures; each is shrunk as it comes, so that a generator of large ones needs little
            memory.
        columns: pictures in a row; fewer pictures make a narrower sheet.
        cell: (width, height) in pixels that a picture is fitted into; its aspect is kept, a smaller one is
            centred.
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
    width, height = cell
    sheet = Image.new("RGB", (columns * (width + gap) + gap, rows * (height + gap) + gap), _BACKGROUND)
    for place, thumbnail in enumerate(thumbnails):
        row, column = divmod(place, columns)
        x = gap + column * (width + gap) + (width - thumbnail.width) // 2
        y = gap + row * (height + gap) + (height - thumbnail.height) // 2
        sheet.paste(thumbnail, (x, y))
    return sheet
