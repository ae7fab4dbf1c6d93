"""Pictures on disk: finding them and decoding them as every part of the tool does."""

from __future__ import annotations

import glob
import io
import os
import re
import sys
import warnings
from collections.abc import Collection, Iterable
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from panoptic_cli.errors import DataError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
TRANSPOSED = (5, 6, 7, 8)  # EXIF orientations that exchange width and height


def read_list(source: str) -> list[str]:
    """Reads a text list of pictures.

    Args:
        source: a file with a path, folder or pattern on each line, or "-" for standard input. Paths are relative to
            the working directory; empty lines do not count.

    Returns:
        The lines.

    Raises:
        DataError: it cannot be read, is no text or is empty.
    """
    name = "Standard input" if source == "-" else f"The list {source}"
    try:
        content = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
    except OSError as error:
        raise DataError(f"{name} cannot be read: {error.strerror}.", "Check the path.") from None
    if b"\0" in content:
        raise DataError(f"{name} is no text.", "It must be a list with one path on each line.")
    lines = [line for line in re.split(r"\r?\n", os.fsdecode(content).lstrip("\ufeff")) if line.strip()]
    if not lines:
        raise DataError(f"{name} names no pictures.", "It must be a list with one path on each line.")
    return lines


def find_pictures(inputs: Iterable[str], *, listed: Iterable[str] = (), skip: Collection[Path] = ()) -> list[Path]:
    """Lists the pictures that files, folders and glob patterns name.

    Args:
        inputs: paths; a folder stands for all pictures below it, sorted.
        listed: the same from a list; one that is not there is kept, so that reading it fails and the others go on.
        skip: folders whose pictures are left out where an input folder holds them: those of earlier predictions.

    Returns:
        The files in order, each once.

    Raises:
        DataError: an input does not exist, or nothing was found; names them all.
    """
    named = list(inputs)
    found: dict[Path, None] = {}
    missing = []
    skipped = {folder.resolve() for folder in skip}

    def wanted(path: Path) -> bool:
        return path.suffix.lower() in SUFFIXES and path.is_file() and skipped.isdisjoint(path.resolve().parents)

    for item, may_fail in (*((i, False) for i in named), *((i, True) for i in listed)):
        path = Path(item)
        if path.is_dir():
            found.update(dict.fromkeys(sorted(p for p in path.rglob("*") if wanted(p))))
        elif path.exists():
            found[path] = None
        else:
            matches = sorted(Path(match) for match in glob.glob(item, recursive=True))
            found.update(dict.fromkeys(p for p in matches if wanted(p)))
            if not matches and may_fail:
                found[path] = None
            elif not matches:
                missing.append(item)
    if missing:
        raise DataError(f"There is no picture, folder or match for: {', '.join(missing)}.", "Check the path.")
    if not found:
        places = ", ".join(named[:3]) or "what the list names"
        raise DataError(f"There are no pictures ({', '.join(sorted(SUFFIXES))}) in {places}.", "Check the path.")
    return list(found)


def read_picture(path: Path) -> np.ndarray:
    """Reads a picture the way people see it: EXIF orientation applied, greyscale and CMYK made RGB, alpha dropped.

    JPEG and PNG without an orientation go through TensorFlow's decoder, so that prediction sees the very pixels that
    training, evaluation and exported models do; of 16 bits it keeps the upper eight.

    Returns:
        uint8 [height, width, 3].

    Raises:
        DataError: it cannot be read or decoded.
    """
    try:
        content = path.read_bytes()
        with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(content)) as picture:  # Pillow's notes
            if picture.format not in ("JPEG", "PNG") or orientation_of(picture) not in (0, 1):
                return _rgb(ImageOps.exif_transpose(picture))
    except UnidentifiedImageError:
        raise _broken(path, "its format is not known" if content else "it is empty") from None
    # Pillow's decoders tell damage by many classes of error, and all of them mean the same here.
    except Exception as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise _broken(path, reason or type(error).__name__) from None
    import tensorflow as tf

    from panoptic_cli.images.decoding import decode_image

    try:
        return np.asarray(decode_image(tf.constant(content)))
    except tf.errors.OpError as error:
        # "{{function_node ...}} the reason [Op:DecodeImage] name: "
        reason = re.sub(r"\{\{.*?\}\}|\[Op:.*", "", error.message.splitlines()[0]).strip()
        raise _broken(path, reason) from None


def _broken(path: Path, reason: str) -> DataError:
    return DataError(f"{path} is not a picture that can be read: {reason.rstrip('. ')}.")


def orientation_of(picture: Image.Image) -> int:
    """The EXIF orientation of an opened picture, 1..8; 1 where there is none or the EXIF data is damaged."""
    try:
        value = picture.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # any damage of the EXIF data: the picture itself may still be good
        return 1
    return value if value in range(1, 9) else 1


def _rgb(picture: Image.Image) -> np.ndarray:
    if picture.mode.startswith("I") or picture.mode == "F":  # 16 bits and more, which convert() would clip at 255
        values = np.asarray(picture, np.float64)
        scale = 256.0 if values.max(initial=0.0) > 255 else 1.0
        grey = np.clip(np.floor(values / scale), 0, 255).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=-1)
    return np.asarray(picture.convert("RGB"))
