"""Access small files on the local disk or, through TensorFlow's file systems, in a bucket.

Only paths with a scheme (gs://) import TensorFlow.
"""

from __future__ import annotations

import contextlib
import glob
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from panoptic_cli import files
from panoptic_cli.errors import RunError, one_line
from panoptic_cli.startup import import_tensorflow


def normalize(path: str | Path) -> str:
    """Returns a path as text, without a trailing slash; repairs `gs:/`, which pathlib makes of `gs://`."""
    text = re.sub(r"^([a-z][a-z0-9]+):/+", r"\1://", str(path))
    return text.rstrip("/") or "/"


def is_remote(path: str) -> bool:
    """Whether the path has a scheme, like gs://bucket/run."""
    return "://" in path


def exists(path: str) -> bool:
    """Whether the file or directory exists."""
    if is_remote(path):
        with _remote(path) as gfile:
            return bool(gfile.exists(path))
    return os.path.exists(path)


def is_directory(path: str) -> bool:
    """Whether the path is an existing directory."""
    if is_remote(path):
        with _remote(path) as gfile:
            return bool(gfile.isdir(path))
    return os.path.isdir(path)


def list_directory(path: str) -> list[str]:
    """Returns the names in a directory; an empty list if it does not exist.

    A local file gives ["NAME (a file)"], so that a check for an empty directory fails and names the reason.
    """
    if is_remote(path):
        with _remote(path) as gfile:
            return [name.rstrip("/") for name in gfile.listdir(path)] if gfile.isdir(path) else []
    if os.path.isdir(path):
        return os.listdir(path)
    return [os.path.basename(path) + " (a file)"] if os.path.exists(path) else []


def find(pattern: str) -> list[str]:
    """Returns the files that match a glob pattern, in no particular order."""
    if is_remote(pattern):
        with _remote(pattern) as gfile:
            return [str(path) for path in gfile.glob(pattern)]
    return [path for path in glob.glob(pattern) if os.path.isfile(path)]


def size(path: str) -> int:
    """Returns a file's size in bytes."""
    if is_remote(path):
        with _remote(path) as gfile:
            return int(gfile.stat(path).length)
    return os.path.getsize(path)


def make_directory(path: str) -> None:
    """Creates a directory and its parents, if they do not exist."""
    if is_remote(path):
        with _remote(path) as gfile:
            gfile.makedirs(path)
    else:
        os.makedirs(path, exist_ok=True)


def read_text(path: str) -> str | None:
    """Returns the text of a UTF-8 file with invalid bytes replaced; None if the file does not exist."""
    if is_remote(path):
        with _remote(path) as gfile:
            if not gfile.exists(path):
                return None
            with gfile.GFile(path, "rb") as stream:
                return bytes(stream.read()).decode("utf-8", errors="replace")
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, NotADirectoryError):
        return None


@contextlib.contextmanager
def open_binary(path: str) -> Iterator[BinaryIO]:
    """Opens a file for reading bytes."""
    if is_remote(path):
        with _remote(path) as gfile, gfile.GFile(path, "rb") as stream:
            yield stream
    else:
        with open(path, "rb") as stream:
            yield stream


def write_text(path: str, text: str) -> None:
    """Writes a UTF-8 file atomically."""
    if is_remote(path):
        partial = f"{path}.partial"
        with _remote(path) as gfile:
            with gfile.GFile(partial, "w") as stream:
                stream.write(text)
            gfile.rename(partial, path, overwrite=True)
    else:
        files.write_text(Path(path), text)


def append_text(path: str, text: str) -> None:
    """Appends to a file and flushes it to the operating system."""
    if is_remote(path):
        with _remote(path) as gfile, gfile.GFile(path, "a") as stream:
            stream.write(text)
    else:
        with open(path, "a", encoding="utf-8") as stream:
            stream.write(text)


def copy(source: str, target: str) -> None:
    """Copies a file and replaces an existing target; either may be remote."""
    if is_remote(source) or is_remote(target):
        with _remote(target) as gfile:
            gfile.copy(source, target, overwrite=True)
    else:
        with files.atomic_path(Path(target)) as partial:
            shutil.copyfile(source, partial)


def remove(path: str) -> None:
    """Removes a file, if it exists."""
    if is_remote(path):
        with _remote(path) as gfile:
            if gfile.exists(path):
                gfile.remove(path)
    else:
        Path(path).unlink(missing_ok=True)


@contextlib.contextmanager
def _remote(path: str) -> Iterator[Any]:
    """Yields `tf.io.gfile`; turns its errors into RunError."""
    import_tensorflow()
    import tensorflow as tf

    try:
        yield tf.io.gfile
    except tf.errors.OpError as error:
        raise RunError(
            f"{path} cannot be reached: {one_line(error.message)}.",
            "Check the address, the network and the credentials.",
        ) from error
