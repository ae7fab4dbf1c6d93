"""One download at a time in a data folder."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from panoptic_cli.errors import TransferError


@contextlib.contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Keeps other downloads out of a folder. The system drops the lock when the process ends, however it ends.

    Where there are no such locks (Windows, some network disks) nothing is kept out.

    Raises:
        TransferError: another process downloads into the folder.
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
                raise TransferError(
                    f"Another panoptic download works in {folder}.", "Wait for it, or give another --data-dir."
                ) from None
        yield
    finally:
        os.close(descriptor)
