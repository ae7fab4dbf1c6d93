"""What the first records of a data set contain, to warn of settings that do not fit them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from panoptic_cli import storage
from panoptic_cli.categories import CategoryTable
from panoptic_cli.errors import DataError
from panoptic_cli.records import schema
from panoptic_cli.records.tfrecord import read_records

_PICTURES = 100


@dataclass(frozen=True)
class DataSample:
    """What a number of pictures contain.

    Attributes:
        most_objects: of a picture.
        most_segments: of a picture, crowds left out.
        stuff_areas: int64, pixels of each stuff segment.
        mean_bytes: of a record; 0 if there are no records yet.
    """

    most_objects: int
    most_segments: int
    stuff_areas: np.ndarray
    mean_bytes: float = 0.0


def sample_records(files: Sequence[str], table: CategoryTable) -> DataSample | None:
    """Reads the first pictures of local record files; None if there are none, or if they are remote or damaged."""
    objects, segments, areas, sizes = [0], [0], [np.zeros(0, np.int64)], []
    stuff = [c.id for c in table.stuff]
    for record in _first_records(files):
        try:
            features = schema.decode_example(record)
        except ValueError:
            return None
        sizes.append(len(record))
        crowd = np.asarray(features.get(schema.OBJECT_IS_CROWD, []))
        objects.append(int(np.count_nonzero(crowd == 0)))
        segments.append(int(np.count_nonzero(np.asarray(features.get(schema.SEGMENT_IS_CROWD, [])) == 0)))
        categories = np.asarray(features.get(schema.SEGMENT_CATEGORY, []))
        pixels = np.asarray(features.get(schema.SEGMENT_AREA, []), np.int64)
        if len(categories) == len(pixels):
            areas.append(pixels[np.isin(categories, stuff)])
    if not sizes:
        return None
    return DataSample(max(objects), max(segments), np.concatenate(areas), float(np.mean(sizes)))


def _first_records(files: Sequence[str]) -> Iterator[bytes]:
    count = 0
    with contextlib.suppress(DataError):  # the reader of all records says what is wrong
        for path in files:
            if storage.is_remote(path):
                return
            for record in read_records(Path(path)):
                yield record
                count += 1
                if count == _PICTURES:
                    return
