"""Write files so that an interrupted run never leaves a partial one; read JSON files."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from panoptic_cli.errors import DataError


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; renames it to `path` on success, removes it on any error.

    A killed process leaves the temporary file: see `remove_left`. For folders and large files there is
    `locks.locked_path`.

    Args:
        path: the file to write. Missing parents are created. An existing file is replaced.

    Yields:
        A path on the same file system that does not exist yet: write the file there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    remove(partial)
    try:
        with named_in_errors(path):
            yield partial
        partial.replace(path)
    except BaseException:
        remove(partial)
        raise


def remove_left(folder: Path, pattern: str) -> None:
    """Removes the temporary files of killed processes that wrote the files of a pattern, while no process writes them.

    Args:
        folder: where the files are.
        pattern: their names, as for `Path.glob`; "**/*" for all files in all folders.
    """
    place, _, name = pattern.rpartition("/")
    for path in folder.glob(f"{place}/.{name}.*.partial" if place else f".{name}.*.partial"):
        remove(path)


@contextlib.contextmanager
def named_in_errors(path: Path) -> Iterator[None]:
    """Gives an OSError of the block a path if it has none: a full disk is reported without one."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def check_writable(path: Path, option: str, *, folder: bool = False) -> None:
    """Checks that a file can be written, hours before it is: writes an empty one beside it, and leaves no trace.

    Args:
        path: the file.
        option: the option that names it, for the message.
        folder: whether it is a folder instead, which replaces one that exists.

    Raises:
        DataError: it cannot be written.
    """
    made: list[Path] = []
    try:
        if path.is_dir() and not folder:
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        for parent in reversed(path.parents):
            if not parent.exists():
                parent.mkdir()
                made.append(parent)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror}.", f"Give another {option}.") from None
    finally:
        for parent in reversed(made):
            parent.rmdir()


def remove(path: Path) -> None:
    """Removes a file or a folder with its contents, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a UTF-8 text file atomically."""
    with atomic_path(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any, indent: int | None = 1) -> None:
    """Writes a JSON file atomically."""
    write_text(path, json.dumps(value, indent=indent) + "\n")


def read_json(path: Path, what: str) -> Any:
    """Reads a JSON file.

    Args:
        path: the file.
        what: the user's word for the file, for the message: "panoptic annotations".

    Raises:
        DataError: the file is missing, unreadable or not JSON; the message gives the place in the file.
    """
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"The {what} file {path} does not exist.", "Check the path.") from None
    except OSError as error:
        raise DataError(f"The {what} file {path} cannot be read: {error.strerror}.") from error
    try:
        return json.loads(text)
    except (
        ValueError,
        RecursionError,
    ) as error:  # not JSON, not UTF-8, a number with thousands of digits, or nested too deeply
        raise DataError(
            f"The {what} file {path} is not valid JSON: {error}.", "It may be incomplete: download or write it again."
        ) from None
