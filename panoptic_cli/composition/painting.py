"""Painting the masks of one picture on top of each other, as segments that do not overlap.

From below: semantic regions, outlined stuff, crowds, objects. Within each of these, the smaller mask is on top of the
larger one, or the later annotation on top of the earlier one. The stuff of one category is one segment, and so are the
crowds of one category.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from panoptic_cli.categories import CategoryTable
from panoptic_cli.images.masks import CroppedMask, box_of_mask

Overlaps = Literal["smaller-on-top", "later-on-top"]
_VARIATION = 40  # largest distance of a segment's colour from its category's, in each channel


@dataclass(frozen=True)
class Layer:
    """The mask of one annotation.

    Attributes:
        name: the annotation's id, for reports.
        category_id: its category in the table.
        is_crowd: whether it covers several things without separating them.
        mask: its pixels.
    """

    name: Any
    category_id: int
    is_crowd: bool
    mask: CroppedMask


@dataclass(frozen=True)
class Hidden:
    """A thing or crowd that others hide in part or whole.

    Attributes:
        layer: its annotation.
        pixels: number of its pixels.
        hidden: number of its hidden pixels.
    """

    layer: Layer
    pixels: int
    hidden: int


@dataclass
class Painting:
    """A picture's segments.

    Attributes:
        ids: uint32 [height, width], segment ids; 0 is unlabelled.
        segments: `segments_info` of COCO's panoptic JSON, in the order of the annotations.
        hidden: the things and crowds that are hidden in part or whole.
    """

    ids: np.ndarray
    segments: list[dict[str, Any]] = field(default_factory=list)
    hidden: list[Hidden] = field(default_factory=list)


def paint(
    table: CategoryTable,
    size: tuple[int, int],
    layers: Sequence[Layer],
    semantic: np.ndarray | None = None,
    overlaps: Overlaps = "smaller-on-top",
) -> Painting:
    """Paints a picture.

    Args:
        table: the categories.
        size: (height, width) of the picture.
        layers: its annotations, in the order of the file.
        semantic: integer [height, width], category ids of the semantic regions, 0 for none; None without them.
        overlaps: which of two annotations of the same rank is on top.
    """
    places = np.zeros(size, np.int32)  # 1-based place of each pixel's segment
    owners: list[tuple[int, bool]] = []  # category and crowd flag of each segment
    place_of: dict[tuple[int, bool], int] = {}
    of_layers = []
    for layer in layers:
        isthing = table.by_id[layer.category_id].isthing
        owner = layer.category_id, layer.is_crowd and isthing
        place = None if isthing and not layer.is_crowd else place_of.get(owner)
        if place is None:
            owners.append(owner)
            place = len(owners)
            place_of.setdefault(owner, place)
        of_layers.append(place)
    for category in [] if semantic is None else np.unique(semantic[semantic > 0]).tolist():
        if (category, False) not in place_of or table.by_id[category].isthing:
            owners.append((category, False))
            place_of[category, False] = len(owners)
        places[semantic == category] = place_of[category, False]
    areas = [int(np.count_nonzero(layer.mask.pixels)) for layer in layers]

    def height_of(index: int) -> tuple[int, int]:
        layer = layers[index]
        rank = 0 if not table.by_id[layer.category_id].isthing else 1 if layer.is_crowd else 2
        return rank, -areas[index] if overlaps == "smaller-on-top" else 0

    for index in sorted(range(len(layers)), key=height_of):  # a stable sort: of equals, the later one is on top
        _inside(places, layers[index].mask)[layers[index].mask.pixels != 0] = of_layers[index]
    painting = Painting(*_name_segments(table, places, owners))
    for layer, place, area in zip(layers, of_layers, areas, strict=True):
        if table.by_id[layer.category_id].isthing:
            seen = np.count_nonzero((_inside(places, layer.mask) == place) & (layer.mask.pixels != 0))
            if seen < area:
                painting.hidden.append(Hidden(layer, area, area - int(seen)))
    return painting


def _inside(picture: np.ndarray, mask: CroppedMask) -> np.ndarray:
    """Returns the part of a picture inside a mask's box, as a view."""
    x, y, width, height = mask.box
    return picture[y : y + height, x : x + width]


def _name_segments(
    table: CategoryTable, places: np.ndarray, owners: Sequence[tuple[int, bool]]
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Returns the map of segment ids, and `segments_info`, without segments that have no pixels."""
    areas = np.bincount(places.ravel(), minlength=len(owners) + 1)
    present = [place for place in range(1, len(owners) + 1) if areas[place]]
    ids = np.zeros(len(owners) + 1, np.uint32)
    ids[present] = segment_ids([table.by_id[owners[place - 1][0]].color for place in present])
    segments = []
    for place in present:
        category, is_crowd = owners[place - 1]
        segments.append(
            {
                "id": int(ids[place]),
                "category_id": category,
                "iscrowd": int(is_crowd),
                "area": int(areas[place]),
                "bbox": list(box_of_mask(places == place) or ()),
            }
        )
    return ids[places], segments


def segment_ids(colors: Iterable[tuple[int, int, int]]) -> list[int]:
    """Returns distinct segment ids whose colours in the PNG are close to those of the categories.

    Args:
        colors: the colour of each segment's category. The first segment of a colour gets just this colour.
    """
    rng = np.random.default_rng(0)
    taken = {0}
    found = []
    for color in colors:
        base = np.array(color)
        candidate, spread = base, _VARIATION
        while (identifier := int(candidate @ (1, 1 << 8, 1 << 16))) in taken:
            candidate = np.clip(base + rng.integers(-spread, spread + 1, 3), 0, 255)
            spread = min(spread + 1, 255)  # with thousands of segments, the nearby colours are used up
        taken.add(identifier)
        found.append(identifier)
    return found
