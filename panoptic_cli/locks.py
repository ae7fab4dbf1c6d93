"""Let one process at a time work in a folder, or write a path."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from panoptic_cli.errors import RunError
from panoptic_cli.files import named_in_errors, remove
from panoptic_cli.interrupts import no_second_interrupt


@contextlib.contextmanager
def folder_lock(folder: Path, work: str, hint: str, name: Path | None = None) -> Iterator[None]:
    """Locks a folder against other processes that do the same work.

    The operating system releases the lock when the process ends for any reason. Systems without such locks (Windows,
    some network disks) are not protected.

    Args:
        folder: an existing folder.
        work: the command that works in it, for the message: "panoptic download".
        hint: what the user can do instead of waiting.
        name: the file or folder that the command writes, for the message; None: it works in `folder` itself.

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
            if not os.path.samestat(os.fstat(descriptor), os.stat(folder)):  # the other process has just replaced it
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES, errno.ENOENT):  # the last: it has just removed the folder
                what = f"is running in {folder}" if name is None else f"is writing {name}"
                raise RunError(f"Another {work} {what}.", f"Wait until it ends, or {hint}.") from None
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def locked_path(path: Path, work: str, hint: str) -> Iterator[Path]:
    """Yields a temporary path; moves it to `path` on success, removes it on any error. One process at a time writes.

    The temporary path is in the folder .NAME.partial beside `path`, which is locked. So the next process knows that
    what it finds there was left by a killed one, and removes it.

    Args:
        path: the file or folder to write. Missing parents are created. An existing file or folder is replaced.
        work: the command that writes it, for the message: "panoptic export".
        hint: what the user can do instead of waiting.

    Yields:
        A path on the same file system that does not exist yet: write the file or create the folder there.

    Raises:
        RunError: another process writes the path.
    """
    folder = path.with_name(f".{path.name}.partial")
    folder.mkdir(parents=True, exist_ok=True)
    new, earlier = folder / "new", folder / "earlier"
    with folder_lock(folder, work, hint, path):
        try:
            _put_back(earlier, path)
            remove(new)
            with named_in_errors(path):
                yield new
            if new.is_dir() and path.is_dir():  # a folder cannot be replaced in one step
                remove(earlier)
                path.rename(earlier)
                new.rename(path)
            else:
                new.replace(path)
        finally:
            with no_second_interrupt():
                _put_back(earlier, path)
                remove(folder)


def _put_back(earlier: Path, path: Path) -> None:
    """Undoes an interrupted replacement."""
    if os.path.lexists(earlier) and not os.path.lexists(path):
        earlier.rename(path)
