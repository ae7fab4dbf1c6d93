"""Writing exported models to local paths and buckets, completely or not at all."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import tensorflow as tf

from panoptic_cli import storage
from panoptic_cli.errors import DataError, RunError, one_line
from panoptic_cli.files import check_writable
from panoptic_cli.interrupts import terminate_as_interrupt
from panoptic_cli.locks import locked_path

_MAIN_FILE = "saved_model.pb"  # a folder without it is not a SavedModel; in a bucket it is written last
_OPERATION_NAMES = re.compile(r"\{\{.*?\}\}|\[Op:.*")  # {{function_node ...}} the file; the reason [Op:SaveV2]


def check_folder(output: str) -> None:
    """Checks that a SavedModel may be written to a folder.

    Args:
        output: the path as `storage.normalize` returns it.

    Raises:
        DataError: the folder exists and is neither a SavedModel nor empty, or it cannot be written.
        RunError: the bucket cannot be reached.
    """
    if not storage.exists(f"{output}/{_MAIN_FILE}") and storage.list_directory(output):
        raise DataError(
            f"{output} exists and is not a SavedModel.", "Choose another --output or remove the folder first."
        )
    if not storage.is_remote(output):
        check_writable(Path(output), "--output", folder=True)


def check_file(output: str) -> None:
    """Checks that a file may be written.

    Raises:
        DataError: a folder of that name exists, or the file cannot be written.
        RunError: the bucket cannot be reached.
    """
    if storage.is_directory(output):
        raise DataError(f"{output} is a folder, not a file.", "Set --output to a file name.")
    if not storage.is_remote(output):
        check_writable(Path(output), "--output")


@contextlib.contextmanager
def whole(output: str) -> Iterator[Path]:
    """Yields a local path for a file or folder, and moves the result into place when it is complete.

    Args:
        output: the path to write, local or in a bucket.

    Raises:
        RunError: the path cannot be written, or another process writes it.
    """
    try:
        if storage.is_remote(output):
            with terminate_as_interrupt(), tempfile.TemporaryDirectory() as scratch:
                local = Path(scratch) / "model"
                yield local
                _copy(local, output)
        else:
            hint = "give another --output"
            with terminate_as_interrupt(), locked_path(Path(output), "panoptic export", hint) as partial:
                yield partial
    except (OSError, tf.errors.OpError) as error:
        reason = one_line(_OPERATION_NAMES.sub("", str(error)))
        hint = "Check the free space and the permissions."
        if storage.is_remote(output):
            hint = "Check the address and the credentials, or export to a local folder and use panoptic upload."
        raise RunError(f"The model {output} cannot be written: {reason}.", hint) from error


def _copy(local: Path, output: str) -> None:
    gfile = tf.io.gfile
    if local.is_file():
        gfile.makedirs(output.rpartition("/")[0])
        gfile.copy(str(local), output, overwrite=True)
        return
    if gfile.exists(f"{output}/{_MAIN_FILE}"):
        gfile.remove(f"{output}/{_MAIN_FILE}")
        gfile.rmtree(output)
    files = sorted((p for p in local.rglob("*") if p.is_file()), key=lambda p: p.name == _MAIN_FILE)
    for path in files:
        target = f"{output}/{path.relative_to(local).as_posix()}"
        gfile.makedirs(os.path.dirname(target))
        gfile.copy(str(path), target, overwrite=True)
