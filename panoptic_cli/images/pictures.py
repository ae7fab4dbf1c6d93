"""Picture files of the user: finding them, and reading them as every part of the tool does."""

from __future__ import annotations

import glob
import os
import re
import sys
from collections import Counter
from collections.abc import Collection, Iterable
from pathlib import Path

import numpy as np

from panoptic_cli.errors import DataError, listed
from panoptic_cli.images.depth import DEEP_NOTE, is_deep
from panoptic_cli.images.orientation import Exif, is_turned, orientation_of
from panoptic_cli.images.pillow import FRAMES_NOTE, JPEG_FORMATS, decode_picture, has_frames, open_picture

SUFFIXES = frozenset(
    f".{name}"
    for name in "jpg jpeg jfif png bmp webp tif tiff gif jp2 avif ppm pgm tga".split()  # noqa: SIM905
)
TURNED_NOTE = "pictures turned as the EXIF orientation says (--exif ignore leaves them as stored)"


def read_list(source: str) -> list[str]:
    """Reads a text list of pictures.

    Args:
        source: a file with a path, folder or pattern on each line, or "-" for standard input. Paths are relative to
            the working directory. Empty lines are ignored.

    Returns:
        The lines.

    Raises:
        DataError: the list cannot be read, is not text, or is empty.
    """
    name = "Standard input" if source == "-" else f"The list {source}"
    try:
        content = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
    except OSError as error:
        raise DataError(f"{name} cannot be read: {error.strerror}.", "Check the path.") from None
    if b"\0" in content:
        raise DataError(f"{name} is not text.", "It must be a list with one path on each line.")
    lines = [line for line in re.split(r"\r?\n", os.fsdecode(content).lstrip("\ufeff")) if line.strip()]
    if not lines:
        raise DataError(f"{name} is empty.", "It must be a list with one path on each line.")
    return lines


def find_pictures(inputs: Iterable[str], *, from_list: Iterable[str] = (), skip: Collection[Path] = ()) -> list[Path]:
    """Finds the pictures that files, folders and glob patterns name.

    Args:
        inputs: paths; a folder means all pictures below it, sorted.
        from_list: paths from a list; one that does not exist is kept, so that only reading that one fails.
        skip: folders to leave out when an input folder contains them, such as those of earlier predictions.

    Returns:
        The files in order, each once.

    Raises:
        DataError: an input does not exist, or nothing was found; names all such inputs.
    """
    named = list(inputs)
    found: dict[Path, None] = {}
    missing = []
    skipped = {folder.resolve() for folder in skip}

    def is_picture(path: Path) -> bool:
        return path.suffix.lower() in SUFFIXES and path.is_file() and skipped.isdisjoint(path.resolve().parents)

    for item, may_fail in (*((i, False) for i in named), *((i, True) for i in from_list)):
        path = Path(item)
        if path.is_dir():
            found.update(dict.fromkeys(sorted(p for p in path.rglob("*") if is_picture(p))))
        elif path.exists():
            found[path] = None
        else:
            matches = sorted(Path(match) for match in glob.glob(item, recursive=True))
            found.update(dict.fromkeys(p for p in matches if is_picture(p)))
            if not matches and may_fail:
                found[path] = None
            elif not matches:
                missing.append(item)
    if missing:
        raise DataError(f"No file or folder matches {listed(missing)}.", "Check the path.")
    if not found:
        places = listed(named, 3) or "what the list names"
        raise DataError(f"There are no pictures ({', '.join(sorted(SUFFIXES))}) in {places}.", "Check the path.")
    return list(found)


def read_picture(
    path: Path,
    exif: Exif = "apply",
    notes: Counter[str] | None = None,
    *,
    accurate_jpeg: bool = False,
    size: tuple[int, int] | None = None,
) -> np.ndarray:
    """Reads a picture as people see it: EXIF orientation applied, greyscale and CMYK as RGB, alpha dropped.

    JPEG and PNG that are not turned go through TensorFlow's decoder, so that prediction gets the same pixels as
    training, evaluation and exported models. Others get those that records store of them.

    Args:
        path: the file.
        exif: "ignore" leaves the pixels as stored.
        notes: counts what was changed and the user should know about.
        size: (height, width) that it must have; then `exif` only counts where both ways give that size.
        accurate_jpeg: see `images.decoding.decode_image`; a network says which it needs.

    Returns:
        uint8 [height, width, 3].

    Raises:
        DataError: it cannot be read or decoded, or has another size.
    """
    try:
        content = path.read_bytes()
        with open_picture(content) as opened:
            changes = [DEEP_NOTE] * is_deep(opened) + [FRAMES_NOTE] * has_frames(opened)
            if opened.format == "PNG":
                opened.load()  # its orientation may follow its pixels
            turned = _is_turned(orientation_of(opened), opened.size, size, exif)
            for_tensorflow = opened.format in (*JPEG_FORMATS, "PNG") and not turned
        if notes is not None:
            notes.update([TURNED_NOTE] * turned + changes)
        if not for_tensorflow:
            return decode_picture(content, upright=turned)
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error)) from None
    except ValueError as error:
        raise _unreadable(path, str(error)) from None
    import tensorflow as tf

    from panoptic_cli.images.decoding import decode_image, decoding_reason

    try:
        return np.asarray(decode_image(tf.constant(content), accurate_jpeg))
    except tf.errors.OpError as error:
        raise _unreadable(path, decoding_reason(error)) from None


def _is_turned(orientation: int, stored: tuple[int, int], size: tuple[int, int] | None, exif: Exif) -> bool:
    """Decides whether a picture of a (width, height) is turned; raises ValueError if no way gives the size."""
    if size is None:
        return exif == "apply" and orientation != 1
    turned = is_turned(orientation, stored, size[::-1], exif)
    if turned is None:
        raise ValueError(f"it has {stored[0]} x {stored[1]} pixels, but is listed with {size[1]} x {size[0]}")
    return turned


def _unreadable(path: Path, reason: str) -> DataError:
    return DataError(f"{path} cannot be read as a picture: {reason}.")
