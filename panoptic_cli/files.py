"""Writing files so that an interrupted run never leaves half of one."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from panoptic_cli.errors import DataError


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; renames it to `path` on success, removes it on any error.

    Args:
        path: the file or folder to produce. Its parent is made when missing. A folder already there is replaced.

    Yields:
        A path on the same file system that does not exist yet; write the file, or make the folder, there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    remove(partial)
    try:
        yield partial
        if partial.is_dir() and path.is_dir():
            _replace_folder(partial, path)
        else:
            partial.replace(path)
    except BaseException:
        remove(partial)
        raise


def _replace_folder(new: Path, path: Path) -> None:
    old = path.with_name(f".{path.name}.{os.getpid()}.old")
    remove(old)  # of a killed process with our number, as containers have
    try:
        path.rename(old)
        new.rename(path)
    except BaseException:
        if not path.exists():  # between the two
            old.rename(path)
        raise
    remove(old)


def remove(path: Path) -> None:
    """Removes a file or a folder with all it holds; nothing happens when it is not there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a UTF-8 text file whole or not at all."""
    with atomic_path(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any, indent: int | None = 1) -> None:
    """Writes a JSON file whole or not at all."""
    write_text(path, json.dumps(value, indent=indent) + "\n")


def read_json(path: Path, what: str) -> Any:
    """Reads a JSON file.

    Args:
        path: the file.
        what: what the file is to the user, for the message: "panoptic annotations".

    Raises:
        DataError: the file is missing, unreadable or not JSON; says where in the file.
    """
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"The {what} file {path} does not exist.", "Check the path.") from None
    except OSError as error:
        raise DataError(f"The {what} file {path} cannot be read: {error.strerror}.") from error
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # not JSON or not UTF-8, numbers of thousands of digits, deep nesting
        raise DataError(
            f"The {what} file {path} is not valid JSON: {error}.", "It may be cut short: fetch or write it again."
        ) from None
