"""The categories that a configuration points to."""

from __future__ import annotations

from panoptic_cli import storage
from panoptic_cli.categories import CategoryTable, read_categories
from panoptic_cli.coco.layout import CATEGORIES_FILE
from panoptic_cli.config import Experiment
from panoptic_cli.errors import DataError
from panoptic_cli.records.files import first_folder


def load_categories(experiment: Experiment) -> CategoryTable:
    """Reads the category table of a configuration.

    Args:
        experiment: `task.categories_file` names the file; by default it is categories.json beside the first training
            records.

    Raises:
        DataError: the file is missing or has no usable table.
    """
    given = experiment.task.categories_file
    path = given or f"{first_folder(experiment.task.train_data.input_path)}/{CATEGORIES_FILE}"
    if not storage.exists(path):
        where = "" if given else " beside the training records"
        raise DataError(
            f"There is no categories file{where}: {path} does not exist.",
            "make-tfrecords writes one. Or give --categories a COCO panoptic JSON or a categories.json.",
        )
    return read_categories(path)
