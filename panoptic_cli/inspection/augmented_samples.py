"""Drawing training examples as the network gets them, after augmentation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf
from PIL import Image

from panoptic_cli.inspection.samples import save_drawing
from panoptic_cli.pipeline.record_errors import explained_records


def draw_augmented(
    dataset: tf.data.Dataset,
    draw_example: Callable[[Mapping[str, Any]], Image.Image],
    count: int,
    output_dir: Path,
    pattern: str,
) -> list[Path]:
    """Draws the first examples of a training as augmented-000.png and so on.

    Args:
        dataset: `pipeline.batches.training_dataset` with batches of one example.
        draw_example: draws a batch of one, given as NumPy arrays; see `models.example_drawer`.
        count: number of examples.
        output_dir: folder of the drawings; it is created if necessary.
        pattern: the records that `dataset` reads, as for `find_record_files`.

    Returns:
        The files.

    Raises:
        DataError: a record cannot be used; names file and record.
    """
    drawn: list[Path] = []
    with explained_records(pattern):
        for place, example in enumerate(dataset.take(count).as_numpy_iterator()):
            drawn.append(save_drawing(draw_example(example), output_dir, f"augmented-{place:03d}"))
    return drawn
