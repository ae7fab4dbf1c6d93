"""The ground truth of a record, for scoring; needs no TensorFlow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask as mask_utils

from panoptic_cli.categories import ANY_THING, VOID_ID, CategoryTable
from panoptic_cli.errors import DataError
from panoptic_cli.evaluation.label_runs import run_starts
from panoptic_cli.evaluation.object_areas import is_wrong
from panoptic_cli.images.masks import decode_png
from panoptic_cli.records import schema
from panoptic_cli.results.prediction import Segment


@dataclass(frozen=True)
class GroundTruth:
    """The ground truth of one picture.

    Attributes:
        image_id: the data set's id; an integer if possible.
        file_name: the picture's file name.
        height, width: pixels.
        id_map: integer [height, width], segment ids; 0 for unlabelled.
        segments: the segments of `id_map`.
        has_crowds: whether the record marks crowd segments; the reference's records do not.
        objects: COCO annotations of the objects, without ids.
        recounted: number of objects whose stated area is not that of their masks, so that `objects` has the pixels.
    """

    image_id: int | str
    file_name: str
    height: int
    width: int
    id_map: np.ndarray
    segments: list[Segment]
    has_crowds: bool
    objects: list[dict[str, Any]]
    recounted: int = 0

    @classmethod
    def from_record(
        cls,
        record: bytes,
        table: CategoryTable,
        *,
        objects: bool = True,
        categories: Mapping[int, int] | None = None,
    ) -> GroundTruth:
        """Reads a record.

        Args:
            record: a serialised tf.train.Example, ours or the reference's.
            table: the categories.
            objects: False skips the objects, whose masks take long to encode.
            categories: {id in the records: id in the table}; None if they are the same.

        Raises:
            DataError: the record has no panoptic ground truth or is damaged.
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
            id_map, segments, has_crowds = _panoptic(features, table, categories)
            found, recounted = _objects(features, image_id, height, width, categories) if objects else ([], 0)
        except (KeyError, IndexError, ValueError) as error:
            raise DataError(
                f"The record of image {source_id or '?'} has no usable panoptic ground truth: {error}.",
                "Make the records with panoptic make-tfrecords.",
            ) from None
        return cls(image_id, file_name, height, width, id_map, segments, has_crowds, found, recounted)

    def semantic_map(self, table: CategoryTable) -> np.ndarray:
        """Returns int32 [height, width]: category ids of stuff, ANY_THING or VOID_ID."""
        lookup = np.full(max((s.id for s in self.segments), default=0) + 1, VOID_ID, np.int32)
        for segment in self.segments:
            is_thing = table.by_id[segment.category_id].isthing
            lookup[segment.id] = ANY_THING if is_thing else segment.category_id
        return lookup[self.id_map]


def segments_from_maps(
    category_map: np.ndarray, instance_map: np.ndarray, table: CategoryTable
) -> tuple[np.ndarray, list[Segment]]:
    """Numbers the segments of a category map and an instance map, as the reference's records have them.

    Args:
        category_map: integer [H, W], category ids; 0 for void.
        instance_map: integer [H, W], instance numbers of the things; 0 for stuff.
        table: the categories; pixels of any other become void.

    Returns:
        int32 [H, W], segment ids from 1 in the order of (category, instance), 0 for void; and the segments with their
        areas, one per thing instance and one per stuff category.

    Raises:
        ValueError: the maps differ in shape or contain negative numbers.
    """
    if category_map.shape != instance_map.shape or category_map.ndim != 2:
        raise ValueError(f"the maps must have the same shape [H, W], not {category_map.shape} and {instance_map.shape}")
    categories, instances = category_map.reshape(-1), instance_map.reshape(-1)
    starts = run_starts(categories, instances)
    category, instance = categories[starts].astype(np.int64), instances[starts].astype(np.int64)
    if (category < 0).any() or (instance < 0).any():
        raise ValueError("category and instance maps must not be negative")
    category = np.where(np.isin(category, list(table.by_id)), category, VOID_ID)
    lengths = np.diff(starts, append=categories.size)
    span = int(instance.max(initial=0)) + 1
    keys, places = np.unique(np.where(category == VOID_ID, 0, category * span + instance), return_inverse=True)
    first = 0 if keys.size and keys[0] == 0 else 1  # the id of the first key, which is void if there is any
    areas = np.bincount(places, lengths, keys.size).astype(np.int64)
    id_map = np.repeat((places + first).astype(np.int32), lengths).reshape(category_map.shape)
    segments = [
        Segment(id=place + first, category_id=int(key // span), area=int(area))
        for place, (key, area) in enumerate(zip(keys.tolist(), areas.tolist(), strict=True))
        if key
    ]
    return id_map, segments


def _text(features: dict[str, Any], key: str) -> str:
    values = features.get(key)
    return values[0].decode(errors="replace") if isinstance(values, list) and values else ""


def _translated(ids: np.ndarray, categories: Mapping[int, int] | None) -> np.ndarray:
    """Replaces the category ids of records by those of the table; ids that it lacks become void."""
    if categories is None:
        return ids
    found, places = np.unique(ids, return_inverse=True)
    return np.array([categories.get(i, VOID_ID) for i in found.tolist()], ids.dtype)[places].reshape(ids.shape)


def _panoptic(
    features: dict[str, Any], table: CategoryTable, translation: Mapping[int, int] | None
) -> tuple[np.ndarray, list[Segment], bool]:
    if features.get(schema.SEGMENT_MASK):
        places = decode_png(features[schema.SEGMENT_MASK][0])
        crowds = features[schema.SEGMENT_IS_CROWD].tolist()
        segments = [
            Segment(id=place, category_id=int(category), iscrowd=bool(crowds[place - 1]))
            for place, category in enumerate(
                _translated(features[schema.SEGMENT_CATEGORY], translation).tolist(), start=1
            )
        ]
        # A segment without any pixel is not part of the map.
        present = np.bincount(places.reshape(-1), minlength=len(segments) + 1) > 0
        return places, [s for s in segments if present[s.id]], True
    categories = _translated(decode_png(features[schema.CATEGORY_MASK][0]), translation)
    instances = decode_png(features[schema.INSTANCE_MASK][0])
    id_map, segments = segments_from_maps(categories, instances, table)
    return id_map, segments, False


def _objects(
    features: dict[str, Any],
    image_id: int | str,
    height: int,
    width: int,
    translation: Mapping[int, int] | None,
) -> tuple[list[dict[str, Any]], int]:
    """Returns COCO's annotations of the objects, and how many of them state a wrong area."""
    masks = features.get(schema.OBJECT_MASK) or []
    if not masks:
        return [], 0
    sides = np.array([width, height, width, height], np.float64)
    edges = (schema.OBJECT_XMIN, schema.OBJECT_YMIN, schema.OBJECT_XMAX, schema.OBJECT_YMAX)
    x1, y1, x2, y2 = (np.stack([features[edge] for edge in edges], axis=1).astype(np.float64) * sides).T
    # Records without these lists are accepted, as in the pipeline: they have no crowds.
    crowds, areas = (features.get(key, ()) for key in (schema.OBJECT_IS_CROWD, schema.OBJECT_AREA))
    labels = _translated(features[schema.OBJECT_LABEL], translation)
    found, recounted = [], 0
    for place, png in enumerate(masks):
        mask = mask_utils.encode(np.asfortranarray(decode_png(png).astype(np.uint8)))
        pixels = float(mask_utils.area(mask))
        area = float(areas[place]) if len(areas) else pixels
        if is_wrong(area, pixels):
            area, recounted = pixels, recounted + 1
        found.append(
            {
                "image_id": image_id,
                "category_id": int(labels[place]),
                "bbox": [x1[place], y1[place], x2[place] - x1[place], y2[place] - y1[place]],
                "area": area,
                "iscrowd": int(crowds[place]) if len(crowds) else 0,
                "segmentation": mask,
            }
        )
    return found, recounted
