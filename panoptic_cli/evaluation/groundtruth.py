"""The ground truth that a record holds, for scoring; without TensorFlow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask as mask_utils

from panoptic_cli.categories import CategoryTable
from panoptic_cli.errors import DataError
from panoptic_cli.evaluation.panoptic_quality import Segment
from panoptic_cli.images.masks import decode_png
from panoptic_cli.records import schema
from panoptic_cli.results.coco_files import segments_from_maps


@dataclass(frozen=True)
class GroundTruth:
    """What one record says about its picture.

    Attributes:
        image_id: the data set's id; an integer wherever it is one.
        file_name: the picture's file name.
        height, width: pixels.
        id_map: integer [height, width], segment ids, 0 unlabelled.
        segments: the segments of `id_map`.
        has_crowds: whether the record tells crowd segments apart; the reference's records do not.
        objects: COCO annotations of the objects (without ids).
    """

    image_id: int | str
    file_name: str
    height: int
    width: int
    id_map: np.ndarray
    segments: list[Segment]
    has_crowds: bool
    objects: list[dict[str, Any]]

    @classmethod
    def from_record(cls, record: bytes, table: CategoryTable, *, objects: bool = True) -> GroundTruth:
        """Reads a record.

        Args:
            record: a serialized tf.train.Example, ours or the reference's.
            table: the categories.
            objects: False leaves the objects out, whose masks take long to encode.

        Raises:
            DataError: the record has no panoptic ground truth or is broken.
        """
        try:
            features = schema.decode_example(record)
        except ValueError as error:
            raise DataError(f"A validation record cannot be read: {error}.", "Make the records again.") from None
        source_id = _text(features, schema.IMAGE_SOURCE_ID)
        image_id: int | str = int(source_id) if source_id.isdecimal() else source_id
        file_name = _text(features, schema.IMAGE_FILENAME) or f"{source_id}.jpg"
        try:
            height, width = (int(features[key][0]) for key in (schema.IMAGE_HEIGHT, schema.IMAGE_WIDTH))
            id_map, segments, has_crowds = _panoptic(features, table)
            found = _objects(features, image_id, height, width) if objects else []
        except (KeyError, IndexError, ValueError) as error:
            raise DataError(
                f"The record of image {source_id or '?'} has no usable panoptic ground truth: {error}.",
                "Make the records with panoptic make-tfrecords.",
            ) from None
        return cls(image_id, file_name, height, width, id_map, segments, has_crowds, found)


def _text(features: dict[str, Any], key: str) -> str:
    values = features.get(key)
    return values[0].decode(errors="replace") if isinstance(values, list) and values else ""


def _panoptic(features: dict[str, Any], table: CategoryTable) -> tuple[np.ndarray, list[Segment], bool]:
    if features.get(schema.SEGMENT_MASK):
        places = decode_png(features[schema.SEGMENT_MASK][0])
        crowds = features[schema.SEGMENT_IS_CROWD].tolist()
        segments = [
            Segment(id=place, category_id=int(category), iscrowd=bool(crowds[place - 1]))
            for place, category in enumerate(features[schema.SEGMENT_CATEGORY].tolist(), start=1)
        ]
        # Segments that lost all their pixels are in no map.
        present = np.bincount(places.reshape(-1), minlength=len(segments) + 1) > 0
        return places, [s for s in segments if present[s.id]], True
    categories = decode_png(features[schema.CATEGORY_MASK][0])
    instances = decode_png(features[schema.INSTANCE_MASK][0])
    id_map, segments = segments_from_maps(categories, instances, table)
    return id_map, segments, False


def _objects(features: dict[str, Any], image_id: int | str, height: int, width: int) -> list[dict[str, Any]]:
    masks = features.get(schema.OBJECT_MASK) or []
    if not masks:
        return []
    sides = np.array([width, height, width, height], np.float64)
    edges = (schema.OBJECT_XMIN, schema.OBJECT_YMIN, schema.OBJECT_XMAX, schema.OBJECT_YMAX)
    x1, y1, x2, y2 = (np.stack([features[edge] for edge in edges], axis=1).astype(np.float64) * sides).T
    found = []
    for place, png in enumerate(masks):
        mask = mask_utils.encode(np.asfortranarray(decode_png(png).astype(np.uint8)))
        found.append(
            {
                "image_id": image_id,
                "category_id": int(features[schema.OBJECT_LABEL][place]),
                "bbox": [x1[place], y1[place], x2[place] - x1[place], y2[place] - y1[place]],
                "area": float(features[schema.OBJECT_AREA][place]),
                "iscrowd": int(features[schema.OBJECT_IS_CROWD][place]),
                "segmentation": mask,
            }
        )
    return found
