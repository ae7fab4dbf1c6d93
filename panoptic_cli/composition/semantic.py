"""Semantic PNGs: a label picture for each picture, whose values are categories."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from panoptic_cli.composition.vocabulary import Vocabulary
from panoptic_cli.errors import listed
from panoptic_cli.images.encoded import PictureError, read_file, size_mismatch
from panoptic_cli.images.pillow import open_picture

_UNLABELLED = frozenset({0, 255})  # what these values usually mean, unless they are categories


def semantic_path(folder: Path, file_name: str) -> Path:
    """Returns the path of a picture's label picture: the same name with .png, in the same subfolder or without it."""
    path = (folder / file_name).with_suffix(".png")
    return path if path.exists() else folder / path.name


def read_semantic(path: Path, size: tuple[int, int], vocabulary: Vocabulary) -> np.ndarray:
    """Reads a label picture.

    Args:
        path: a PNG with values of 8 or 16 bits or places of a palette; in three channels the values must be equal.
        size: (height, width) of the picture.
        vocabulary: the categories of the values.

    Returns:
        int64 [height, width], category ids of the table; 0 for unlabelled pixels.

    Raises:
        PictureError: the file is missing, unreadable, in colour or of another size, or has values that are no category.
    """
    content = read_file(path, "semantic PNG")
    try:
        with open_picture(content) as picture:
            pixels = np.asarray(picture)  # of a palette, the places; its colours are for the eye
            lossy = picture.format in ("JPEG", "MPO")
    except ValueError as error:
        raise PictureError("unreadable semantic PNG", f"{path}: {error}") from None
    if pixels.shape[:2] != size:
        raise PictureError("size mismatch", size_mismatch(path, pixels.shape[1::-1], size[::-1]))
    channels = pixels if pixels.ndim == 3 else pixels[..., np.newaxis]
    if lossy or (channels.shape[-1] > 2 and (channels[..., :3] != channels[..., :1]).any()):
        reason = "is a JPEG, which changes values" if lossy else "is in colour; it must have one value for each pixel"
        raise PictureError("unusable semantic PNG", f"{path} {reason}")
    values, inverse = np.unique(channels[..., 0].astype(np.int64), return_inverse=True)
    unknown = sorted({*values.tolist()} - vocabulary.of_stuff.keys() - vocabulary.unlabelled - _UNLABELLED)
    if unknown:
        raise PictureError("unknown category", f"{path} has values that are no category: {listed(unknown, 5)}")
    return np.array([vocabulary.of_stuff.get(value, 0) for value in values.tolist()], np.int64)[inverse].reshape(size)
