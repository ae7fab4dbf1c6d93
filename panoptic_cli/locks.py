"""Let one process at a time work in a folder."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from panoptic_cli.errors import RunError


@contextlib.contextmanager
def folder_lock(folder: Path, work: str, hint: str, name: Path | None = None) -> Iterator[None]:
    """Locks a folder against other processes that do the same work.

    The operating system releases the lock when the process ends for any reason. Systems without such locks (Windows,
    some network disks) are not protected.

    Args:
        folder: an existing folder.
        work: the command that works in it, for the message: "panoptic download".
        hint: what the user can do instead of waiting.
        name: the folder that the user knows, for the message; None: `folder`.

    Raises:
        RunError: another process works in the folder.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)  # locking the folder itself leaves no lock file behind
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                message = f"Another {work} is running in {name or folder}."
                raise RunError(message, f"Wait until it ends, or {hint}.") from None
        yield
    finally:
        os.close(descriptor)
