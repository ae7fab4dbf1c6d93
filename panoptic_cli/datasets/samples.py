"""Samples of a data set with their ground truth, drawn as pictures."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from panoptic_cli.categories import CategoryTable
from panoptic_cli.datasets import masks, records
from panoptic_cli.datasets.coco import PanopticDataset
from panoptic_cli.datasets.tfrecord import read_records
from panoptic_cli.errors import DataError
from panoptic_cli.files import atomic_path


@dataclass(frozen=True)
class Sample:
    """A picture with its panoptic ground truth.

    Attributes:
        name: unique within its source, fit for a file name.
        image: uint8 [height, width, 3].
        category_map: int32 [height, width] of category ids, 0 unlabelled.
        instance_map: int32 [height, width], 1-based place in segments_info for things, 0 elsewhere.
    """

    name: str
    image: np.ndarray
    category_map: np.ndarray
    instance_map: np.ndarray


def dataset_samples(dataset: PanopticDataset, count: int) -> Iterator[Sample]:
    """Yields up to `count` samples spread evenly over a split; what cannot be read is left out.

    Raises:
        DataError: a picture or mask is missing or unreadable.
    """
    pictures = dataset.pictures
    chosen = sorted({i * len(pictures) // count for i in range(count)}) if pictures else []
    for picture in (pictures[i] for i in chosen):
        try:
            image = _rgb((dataset.files.image_dir / picture.file_name).read_bytes())
            ids = masks.decode_panoptic_png((dataset.files.panoptic_masks / picture.mask_name).read_bytes())
        except (OSError, ValueError) as error:
            raise DataError(f"Picture {picture.id} ({picture.file_name}) cannot be drawn: {error}.") from None
        if ids.shape != image.shape[:2]:
            raise DataError(f"Picture {picture.id} ({picture.file_name}) and its mask differ in size.")
        places, _ = masks.segment_places(ids, [segment.id for segment in picture.segments])
        categories = np.array([0, *(s.category_id for s in picture.segments)], np.int32)
        things = [
            place if dataset.table.by_id[segment.category_id].isthing else 0
            for place, segment in enumerate(picture.segments, start=1)
        ]
        instances = np.array([0, *things], np.int32)
        yield Sample(f"{dataset.files.name}-{picture.id}", image, categories[places], instances[places])


def record_samples(paths: list[Path], count: int) -> Iterator[Sample]:
    """Yields the first `count` samples of record files.

    Raises:
        DataError: a record is damaged or lacks a feature.
    """
    found = ((path, record) for path in paths for record in read_records(path))
    for path, record in islice(found, count):
        try:
            features = records.decode_example(record)
            yield Sample(
                bytes(features[records.IMAGE_SOURCE_ID][0]).decode(),
                _rgb(bytes(features[records.IMAGE_ENCODED][0])),
                masks.decode_png(bytes(features[records.CATEGORY_MASK][0])),
                masks.decode_png(bytes(features[records.INSTANCE_MASK][0])),
            )
        except (OSError, ValueError, KeyError, IndexError) as error:
            raise DataError(f"A record of {path} cannot be drawn: {error}.") from None


def draw(samples: Iterator[Sample], table: CategoryTable, output_dir: Path) -> list[Path]:
    """Draws each sample as {name}.png in output_dir and returns the files."""
    from panoptic_cli.visualization import draw_panoptic

    written = []
    for sample in samples:
        path = output_dir / f"{Path(sample.name).name}.png"
        overlay = draw_panoptic(sample.image, sample.category_map, sample.instance_map, table)
        with atomic_path(path) as partial:
            overlay.save(partial, "PNG")
        written.append(path)
    return written


def _rgb(encoded: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(encoded)) as opened:
        return np.asarray(opened.convert("RGB"))
