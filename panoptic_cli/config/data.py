"""Where the records of a data folder are: the only place for these default names."""

from __future__ import annotations

from pathlib import Path

from panoptic_cli import storage

RECORDS_FOLDER = "tfrecords"
TRAIN_PATTERN = "train-*"
VAL_PATTERN = "val-*"


def default_records(data_dir: str | Path) -> tuple[str, str]:
    """Returns the patterns of a data folder's training and validation records.

    Args:
        data_dir: local folder or gs:// address.

    Returns:
        ("<data-dir>/tfrecords/train-*", "<data-dir>/tfrecords/val-*").
    """
    records = f"{storage.normalize(data_dir)}/{RECORDS_FOLDER}"
    return f"{records}/{TRAIN_PATTERN}", f"{records}/{VAL_PATTERN}"
