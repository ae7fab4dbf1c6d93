"""Importing TensorFlow without its start-up notes."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator


def import_tensorflow() -> None:
    """Imports TensorFlow and looks for devices; what that prints is dropped unless it fails.

    TensorFlow 2.21 writes notes about instruction sets and missing CUDA libraries straight to the error stream, and
    no longer heeds TF_CPP_MIN_LOG_LEVEL for them. PANOPTIC_DEBUG=1 lets them through.
    """
    if "tensorflow" in sys.modules or os.environ.get("PANOPTIC_DEBUG"):
        return
    with _stderr_kept_back():
        import tensorflow as tf

        tf.config.list_physical_devices()


@contextlib.contextmanager
def _stderr_kept_back() -> Iterator[None]:
    """Sends file descriptor 2 to a file, and prints the file if the block raises."""
    try:
        saved = os.dup(2)
    except OSError:  # no error stream at all
        yield
        return
    with tempfile.TemporaryFile() as kept:
        sys.stderr.flush()
        os.dup2(kept.fileno(), 2)
        try:
            yield
        except BaseException:
            os.dup2(saved, 2)
            kept.seek(0)
            os.write(2, kept.read())
            raise
        finally:
            os.dup2(saved, 2)
            os.close(saved)
