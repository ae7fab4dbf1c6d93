"""The category table: the only source of class counts, names, colours and label offsets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from panoptic_cli.errors import ConfigError, DataError, summarize
from panoptic_cli.files import read_json

VOID_LABEL = 0  # semantic class of unlabelled pixels, and the category of void in panoptic pictures
THING_LABEL = 1  # semantic class that all things share
MAX_CATEGORY_ID = 65535  # that the 16-bit label pictures of records hold
_MAX_ID = 1 << 62  # that annotations may have at all


@dataclass(frozen=True)
class Category:
    """One category of a panoptic data set.

    Attributes:
        id: the data set's own id, at least 1 (0 is void).
        name: the name to show.
        isthing: whether it is countable (a thing) or stuff.
        color: (red, green, blue), each 0..255.
        supercategory: the group it belongs to, may be empty.
    """

    id: int
    name: str
    isthing: bool
    color: tuple[int, int, int]
    supercategory: str = ""


@dataclass(frozen=True)
class CategoryTable:
    """The categories of a data set, in the order of its file."""

    categories: tuple[Category, ...]

    @classmethod
    def from_list(cls, entries: Iterable[Mapping[str, Any]], source: str) -> CategoryTable:
        """Builds the table from the `categories` list of a COCO panoptic JSON.

        Args:
            entries: mappings with id, name, isthing and, optionally, color and supercategory.
            source: where they come from, for messages.

        Raises:
            DataError: lists every entry that is incomplete, repeated or out of range.
        """
        problems: list[str] = []
        categories: list[Category] = []
        seen: set[int] = set()
        for place, entry in enumerate(entries):
            where = f"categories[{place}]"
            if not isinstance(entry, Mapping):
                problems.append(f"{where} is not an object")
                continue
            missing = [key for key in ("id", "name", "isthing") if entry.get(key) is None]
            if missing:
                problems.append(f"{where} ({entry.get('name', '?')}) has no {', '.join(missing)}")
                continue
            identifier = entry["id"]
            if not isinstance(identifier, int) or isinstance(identifier, bool) or not 1 <= identifier <= _MAX_ID:
                problems.append(f"{where}: id must be an integer of at least 1, not {identifier!r:.40}")
                continue
            if identifier in seen:
                problems.append(f"{where}: id {identifier} is there twice")
                continue
            if entry["isthing"] not in (0, 1):
                problems.append(f"{where}: isthing must be 0 or 1, not {entry['isthing']!r:.40}")
                continue
            seen.add(identifier)
            color = entry.get("color")
            if not is_color_or_none(color):
                problems.append(f"{where}: color must be three integers of 0..255, not {color!r:.40}")
                continue
            categories.append(
                Category(
                    id=identifier,
                    name=str(entry["name"]),
                    isthing=bool(entry["isthing"]),
                    color=tuple(color) if color else _default_color(identifier),
                    supercategory=str(entry.get("supercategory", "")),
                )
            )
        if not problems and not categories:
            problems.append("it lists no categories")
        if problems:
            raise DataError(
                f"The category table of {source} is not usable: {summarize(problems)}.",
                "Each category needs id, name and isthing, as in COCO's panoptic JSON.",
            )
        return cls(tuple(categories))

    @classmethod
    def from_file(cls, path: Path) -> CategoryTable:
        """Reads the table from a COCO panoptic JSON, or from a categories.json that holds the list alone."""
        value = read_json(path, "categories")
        entries = value.get("categories") if isinstance(value, dict) else value
        if not isinstance(entries, list):
            raise DataError(f"{path} has no list of categories.", "Give a COCO panoptic JSON or a categories.json.")
        return cls.from_list(entries, str(path))

    def to_list(self) -> list[dict[str, Any]]:
        """Returns the `categories` list as COCO's panoptic JSON holds it."""
        return [
            {
                "id": c.id,
                "name": c.name,
                "isthing": int(c.isthing),
                "color": list(c.color),
                "supercategory": c.supercategory,
            }
            for c in self.categories
        ]

    @cached_property
    def by_id(self) -> dict[int, Category]:
        """Maps a category id to its category."""
        return {c.id: c for c in self.categories}

    @cached_property
    def things(self) -> tuple[Category, ...]:
        """The countable categories, in table order."""
        return tuple(c for c in self.categories if c.isthing)

    @cached_property
    def stuff(self) -> tuple[Category, ...]:
        """The uncountable categories, in table order."""
        return tuple(c for c in self.categories if not c.isthing)

    @property
    def max_id(self) -> int:
        """The largest category id."""
        return max(c.id for c in self.categories)


@dataclass(frozen=True, eq=False)
class LabelSpace:
    """How category ids become the classes of the network's heads, and back.

    Two kinds. With `stuff_classes_offset` (the reference's `panoptic_fpn_coco`: 90) a thing's class is its id and
    a stuff's semantic class is its id minus the offset, so that published checkpoints keep their meaning. Without
    it (None) classes are counted in table order: things from 1, stuff from 2 in the semantic head.

    Attributes:
        table: the categories.
        stuff_classes_offset: see above.
        num_classes: classes of the box and mask heads, background included.
        num_semantic_classes: classes of the semantic head: void, "thing" and the stuff.
        thing_ids: int64 [num_classes], the category id of each class; 0 for the background.
        semantic_ids: int64 [num_semantic_classes], the stuff category id of each class; 0 for void and thing.
            With an offset, classes between the table's categories keep the id that the offset gives them, as the
            reference's do, although no category has it.
    """

    table: CategoryTable
    stuff_classes_offset: int | None
    num_classes: int
    num_semantic_classes: int
    thing_ids: np.ndarray
    semantic_ids: np.ndarray

    @classmethod
    def create(
        cls,
        table: CategoryTable,
        stuff_classes_offset: int | None = None,
        num_classes: int | None = None,
        num_semantic_classes: int | None = None,
    ) -> LabelSpace:
        """Builds the mapping and checks that every category fits.

        Args:
            table: the data set's categories.
            stuff_classes_offset: the offset, None for classes in table order.
            num_classes: size of the box head, None to derive it.
            num_semantic_classes: size of the semantic head, None to derive it.

        Raises:
            ConfigError: a category has no class in heads of these sizes (lists all of them), or an id is larger than
                records hold.
        """
        largest = max((c.id for c in table.categories), default=0)
        if largest > MAX_CATEGORY_ID:
            raise ConfigError(
                f"The categories have an id of {largest}; records hold ids up to {MAX_CATEGORY_ID}.",
                "Number the categories anew.",
            )
        offset = stuff_classes_offset
        if offset is None:
            thing_class = {c.id: place for place, c in enumerate(table.things, start=1)}
            stuff_class = {c.id: place for place, c in enumerate(table.stuff, start=2)}
        else:
            thing_class = {c.id: c.id for c in table.things}
            stuff_class = {c.id: c.id - offset for c in table.stuff}
        boxes = num_classes or max(thing_class.values(), default=0) + 1
        semantic = num_semantic_classes or max(stuff_class.values(), default=1) + 1
        problems = [
            f"thing {i} ({table.by_id[i].name}) would be class {c} of {boxes}"
            for i, c in thing_class.items()
            if not 0 < c < boxes
        ]
        problems += [
            f"stuff {i} ({table.by_id[i].name}) would be semantic class {c} of {semantic}"
            for i, c in stuff_class.items()
            if not THING_LABEL < c < semantic
        ]
        if problems:
            raise ConfigError(
                f"The categories do not fit the configured heads: {summarize(problems)}.",
                "For your own categories: --params-override 'task.model.stuff_classes_offset=null,"
                "task.model.num_classes=null,task.model.segmentation_model.num_classes=null'.",
            )
        thing_ids = np.zeros(boxes, np.int64)
        semantic_ids = np.zeros(semantic, np.int64)
        if offset is not None:
            thing_ids[:] = np.arange(boxes)
            semantic_ids[THING_LABEL + 1 :] = np.arange(THING_LABEL + 1, semantic) + offset
        for identifier, label in thing_class.items():
            thing_ids[label] = identifier
        for identifier, label in stuff_class.items():
            semantic_ids[label] = identifier
        return cls(table, offset, boxes, semantic, thing_ids, semantic_ids)

    @cached_property
    def thing_class_of_id(self) -> np.ndarray:
        """int32 [max id + 1]: class of the box head by category id; 0 where the id is no thing."""
        return self._classes_of_ids(self.thing_ids, [c.id for c in self.table.things])

    @cached_property
    def semantic_class_of_id(self) -> np.ndarray:
        """int32 [max id + 1]: semantic class by category id: 1 for things, 0 (void) for ids not in the table."""
        lookup = self._classes_of_ids(self.semantic_ids, [c.id for c in self.table.stuff])
        lookup[[c.id for c in self.table.things]] = THING_LABEL
        return lookup

    def _classes_of_ids(self, ids_of_classes: np.ndarray, wanted: list[int]) -> np.ndarray:
        lookup = np.zeros(self.table.max_id + 1, np.int32)
        classes = {int(identifier): label for label, identifier in enumerate(ids_of_classes)}
        for identifier in wanted:
            lookup[identifier] = classes[identifier]
        return lookup


def is_color_or_none(value: Any) -> bool:
    """Whether this is a category's `color` as JSON may hold it: three integers of 0..255, or null or [] for none."""
    if value is None or value == []:
        return True
    return (
        isinstance(value, list | tuple) and len(value) == 3 and all(type(c) is int and 0 <= c <= 255 for c in value)
    )  # a bool is no number here


def _default_color(identifier: int) -> tuple[int, int, int]:
    """A fixed, well spread colour for a category that brings none (golden-ratio steps around the hue circle)."""
    import colorsys

    hue = (identifier * 0.618033988749895) % 1.0
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.65, 0.95)
    return round(red * 255), round(green * 255), round(blue * 255)
