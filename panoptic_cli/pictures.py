"""Pictures on disk: finding them and decoding them as every part of the tool does."""

from __future__ import annotations

import glob
import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps

from panoptic_cli.errors import DataError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
_PLAIN_MODES = frozenset({"RGB", "L", "RGBA", "LA", "P"})


def find_pictures(inputs: Iterable[str]) -> list[Path]:
    """Lists the pictures that files, folders and glob patterns name.

    Args:
        inputs: paths; a folder stands for all pictures below it, sorted.

    Returns:
        The files in order, each once.

    Raises:
        DataError: an input does not exist, or nothing was found; names them all.
    """
    found: dict[Path, None] = {}
    missing = []
    for item in inputs:
        path = Path(item)
        if path.is_dir():
            found.update(dict.fromkeys(sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES)))
        elif path.exists():
            found[path] = None
        else:
            matches = sorted(Path(match) for match in glob.glob(item, recursive=True))
            found.update(dict.fromkeys(p for p in matches if p.suffix.lower() in SUFFIXES))
            if not matches:
                missing.append(item)
    if missing:
        raise DataError(f"There is no picture, folder or match for: {', '.join(missing)}.", "Check the path.")
    if not found:
        raise DataError(f"The folders hold no pictures ({', '.join(sorted(SUFFIXES))}).", "Check the path.")
    return list(found)


def read_picture(path: Path) -> np.ndarray:
    """Reads a picture the way people see it: EXIF orientation applied, greyscale and CMYK made RGB, alpha dropped.

    JPEG and PNG without an orientation go through TensorFlow's decoder, so that prediction sees the very pixels that
    training and exported models do.

    Returns:
        uint8 [height, width, 3].

    Raises:
        DataError: it cannot be read or decoded.
    """
    try:
        content = path.read_bytes()
        with Image.open(io.BytesIO(content)) as picture:
            turned = picture.getexif().get(ExifTags.Base.Orientation, 1) not in (0, 1)
            deep = picture.mode not in _PLAIN_MODES
            if picture.format not in ("JPEG", "PNG") or turned or deep:
                return _rgb(ImageOps.exif_transpose(picture))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error).split(":")[0]
        raise DataError(f"{path} is not a picture that can be read: {reason}.") from None
    import tensorflow as tf

    from panoptic_cli.datasets.preprocessing import decode_image

    try:
        return np.asarray(decode_image(tf.constant(content)))
    except tf.errors.OpError as error:
        raise DataError(f"{path} is a broken picture: {error.message.splitlines()[0]}.") from None


def _rgb(picture: Image.Image) -> np.ndarray:
    if picture.mode.startswith("I") or picture.mode == "F":  # 16 bits and more: the high byte counts
        values = np.asarray(picture, np.float64)
        scale = 257.0 if values.max(initial=0) > 255 else 1.0
        grey = np.clip(np.round(values / scale), 0, 255).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=-1)
    return np.asarray(picture.convert("RGB"))
