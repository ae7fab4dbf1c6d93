"""How segments are regrouped on their way into records: by a category map, and stuff in several segments."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from pycocotools import mask as coco_mask

from panoptic_cli.categories import CategoryTable
from panoptic_cli.coco.category_map import read_category_map
from panoptic_cli.coco.dataset import ObjectAnnotation, Picture, SegmentInfo
from panoptic_cli.images.masks import SegmentRuns

SEVERAL = "pictures with several segments of one stuff category, which lowers PQ: --merge-stuff makes them one"
MERGED = "segments merged with another segment of the same stuff category"
DROPPED = "of a dropped category or of stuff"


@dataclass(frozen=True)
class Regrouping:
    """What to do with a picture's segments and objects.

    Attributes:
        table: the categories afterwards.
        new_ids: new category id by old id; dropped categories are absent. None without a category map.
        added_things: old ids of stuff that becomes a thing; the instances JSON has no objects of it.
        merge_stuff: make the segments of one stuff category in a picture one segment.
    """

    table: CategoryTable
    new_ids: dict[int, int] | None = None
    added_things: frozenset[int] = frozenset()
    merge_stuff: bool = False

    @classmethod
    def planned(cls, category_map: Path | None, merge_stuff: bool, table: CategoryTable) -> Regrouping:
        """Reads the category map, if there is one. With a map, stuff is always merged.

        Raises:
            ConfigError: see `read_category_map`.
        """
        if category_map is None:
            return cls(table, merge_stuff=merge_stuff)
        found = read_category_map(category_map, table)
        stuff = {category.id for category in table.stuff}
        added = {old for old, new in found.new_ids.items() if old in stuff and found.table.by_id[new].isthing}
        return cls(found.table, found.new_ids, frozenset(added), merge_stuff=True)

    def apply(self, picture: Picture, runs: SegmentRuns) -> tuple[Picture, SegmentRuns, Counter[str]]:
        """Regroups a picture.

        Args:
            picture: the picture.
            runs: its segment map.

        Returns:
            The picture and its map afterwards, and counts of `SEVERAL`, `MERGED` and `DROPPED` (objects).
        """
        counts: Counter[str] = Counter()
        segments: list[SegmentInfo] = []
        places = np.zeros(len(picture.segments) + 1, np.uint16)  # new place by old place; 0 for dropped segments
        place_of: dict[int, int] = {}  # of the first segment of each stuff category
        for place, old in enumerate(picture.segments, start=1):
            category = old.category_id if self.new_ids is None else self.new_ids.get(old.category_id)
            if category is None:
                continue
            first = None if self.table.by_id[category].isthing else place_of.get(category)
            if first is not None and self.merge_stuff:
                places[place] = first
                other = segments[first - 1]
                both = old.is_crowd and other.is_crowd
                segments[first - 1] = replace(other, is_crowd=both, area=None, bbox=None)
                counts[MERGED] += 1
                continue
            if first is not None:
                counts[SEVERAL] = 1
            segments.append(replace(old, category_id=category))
            places[place] = len(segments)
            place_of.setdefault(category, len(segments))
        objects = picture.objects
        if objects is not None and self.new_ids is not None:
            kept = list(self._objects(objects))
            counts[DROPPED] += len(objects) - len(kept)
            objects = (*kept, *self._added_objects(picture, runs))
        regrouped = replace(picture, segments=tuple(segments), objects=objects)
        return regrouped, replace(runs, places=places[runs.places]), +counts

    def _objects(self, objects: tuple[ObjectAnnotation, ...]) -> Iterator[ObjectAnnotation]:
        assert self.new_ids is not None
        for annotation in objects:
            category = self.new_ids.get(annotation.category_id)
            if category is not None and self.table.by_id[category].isthing:
                yield replace(annotation, category_id=category)

    def _added_objects(self, picture: Picture, runs: SegmentRuns) -> Iterator[ObjectAnnotation]:
        """Yields the segments of stuff that becomes a thing as objects."""
        assert self.new_ids is not None
        for place, segment in enumerate(picture.segments, start=1):
            if segment.category_id in self.added_things:
                mask = runs.paint(np.arange(len(picture.segments) + 1) == place)
                outline = coco_mask.encode(np.asfortranarray(mask, np.uint8))
                category = self.new_ids[segment.category_id]
                yield ObjectAnnotation(segment.id, category, segment.is_crowd, None, None, outline)
