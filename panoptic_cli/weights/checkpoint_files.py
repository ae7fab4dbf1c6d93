"""Finding the checkpoints in a folder. Local folders need no TensorFlow.

TensorFlow names the complete checkpoints of a folder in a state file, `checkpoint`. It replaces this file whole after
each save, so the file never names a checkpoint that an interrupted save left incomplete.
"""

from __future__ import annotations

import os
import re

from panoptic_cli import storage
from panoptic_cli.errors import RunError

STATE_FILE = "checkpoint"


def is_checkpoint(prefix: str) -> bool:
    """Whether there is a checkpoint with this prefix."""
    return storage.exists(f"{prefix}.index")


def latest(folder: str) -> str | None:
    """Returns the prefix of the newest checkpoint in a folder, None if there is none.

    Args:
        folder: local or gs://.
    """
    names = _read_state(folder, "model_checkpoint_path")
    if not names:
        return None
    prefix = names[0] if names[0].startswith("/") or storage.is_remote(names[0]) else f"{folder}/{names[0]}"
    return prefix if is_checkpoint(prefix) else None


def numbered(folder: str) -> list[tuple[int, str]]:
    """Returns (step, prefix) of the checkpoints `<name>-<step>` in a folder, oldest first."""
    found = {}
    for path in _read_state(folder, "all_model_checkpoint_paths"):
        name = path.rsplit("/", 1)[-1]
        step = name.rpartition("-")[2]
        if step.isdecimal():
            found[int(step)] = f"{folder}/{name}"
    return [(step, prefix) for step, prefix in sorted(found.items()) if is_checkpoint(prefix)]


def find_checkpoint(source: str | os.PathLike[str]) -> str:
    """Returns the prefix of the checkpoint that a path names.

    Args:
        source: a run directory, a folder with checkpoints, a prefix, or one of a checkpoint's files.

    Raises:
        RunError: there is no checkpoint.
    """
    path = re.sub(r"\.(index|data-\d{5}-of-\d{5})$", "", storage.normalize(os.fspath(source)))
    if is_checkpoint(path):
        return path
    prefix = (latest(f"{path}/checkpoints") or latest(path)) if storage.is_directory(path) else None
    if prefix is None:
        raise RunError(
            f"There is no checkpoint at {path}.",
            "Give a run directory, its checkpoints folder, or a prefix such as RUN/checkpoints/ckpt-1000.",
        )
    return prefix


def _read_state(folder: str, field: str) -> list[str]:
    """Returns the values of a field of the state file, a text protocol buffer."""
    text = storage.read_text(f"{folder}/{STATE_FILE}") or ""
    return [_unescape(value) for value in re.findall(rf'^{field}: "(.*)"$', text, re.MULTILINE)]


def _unescape(value: str) -> str:
    r"""Undoes the escapes of text protocol buffers, which write a byte that is not ASCII as \303."""
    try:
        return value.encode().decode("unicode_escape").encode("latin-1").decode("utf-8", errors="replace")
    except ValueError:  # damaged
        return value
