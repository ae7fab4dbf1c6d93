"""One process at a time in a folder."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from panoptic_cli.errors import RunError


@contextlib.contextmanager
def folder_lock(folder: Path, work: str, hint: str) -> Iterator[None]:
    """Keeps others that do the same work out of a folder.

    The system drops the lock when the process ends, however it ends.

    Where there are no such locks (Windows, some network disks) nothing is kept out.

    Args:
        folder: which has to be there.
        work: what is done in it, for the message: "panoptic download".
        hint: what else the user can do but wait.

    Raises:
        RunError: another process works in the folder.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)  # the folder itself: no file is left behind
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                raise RunError(f"Another {work} works in {folder}.", f"Wait for it, or {hint}.") from None
        yield
    finally:
        os.close(descriptor)
