"""One object of a COCO instances JSON: what is put right in it, and what makes it useless."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import msgspec
from pycocotools import mask as mask_utils

from panoptic_cli.evaluation.object_areas import is_doubtful, is_wrong
from panoptic_cli.images.masks import listed_polygons
from panoptic_cli.images.run_lengths import runs_of

_FAR = 1e6  # pixels: pycocotools walks along every edge of a polygon
_Coordinate = Annotated[float, msgspec.Meta(ge=-_FAR, le=_FAR)]
# Nearly all segmentations are so; the check of other ones is slower.
_DECODE_POLYGONS = msgspec.json.Decoder(list[Annotated[list[_Coordinate], msgspec.Meta(min_length=6)]])
_DECODE_ANY = msgspec.json.Decoder()
_NULL = msgspec.Raw(b"null")


class BadObjectError(ValueError):
    """An object cannot be used."""


class Entry(msgspec.Struct):
    """An entry of `annotations`, of any types."""

    id: Any = None
    image_id: Any = None
    category_id: Any = None
    bbox: Any = None
    area: Any = None
    iscrowd: Any = None
    segmentation: msgspec.Raw = _NULL
    segments_info: msgspec.Raw = _NULL  # only to recognise other files
    caption: msgspec.Raw = _NULL


class Picture(NamedTuple):
    """A picture of the records."""

    id: int | str
    height: int
    width: int


Outline = bytes | msgspec.Raw | list[list[float]] | dict[str, Any] | None  # JSON or decoded; None for none
Note = Callable[[str, Entry], None]


@dataclass(slots=True)
class CheckedObject:
    """An object that can be scored.

    Attributes:
        picture: its picture.
        category: category id of the model.
        bbox: x, y, width, height in pixels.
        area: pixels.
        iscrowd: 0 or 1.
        outline: polygons or run lengths.
    """

    picture: Picture
    category: int
    bbox: list[float]
    area: float
    iscrowd: int
    outline: Outline

    @property
    def has_outline(self) -> bool:
        """Whether mask AP counts it."""
        return self.outline is not None

    def to_coco(self, *, with_mask: bool) -> dict[str, Any]:
        """Returns COCO's annotation, without an id; its segmentation is a compressed mask."""
        entry = {
            "image_id": self.picture.id,
            "category_id": self.category,
            "bbox": self.bbox,
            "area": self.area,
            "iscrowd": self.iscrowd,
        }
        return {**entry, "segmentation": _mask(self.outline, self.picture)} if with_mask else entry


def check_entry(entry: Entry, picture: Picture, category: int, note: Note) -> CheckedObject | None:
    """Checks an object.

    Args:
        entry: the object.
        picture: its picture.
        category: its category in the model.
        note: called with what was assumed, in words that follow "N objects of FILE", and the entry.

    Returns:
        The object; None if it has neither a box nor an outline.

    Raises:
        BadObjectError: a part of it is wrong and cannot be put right.
    """
    outline = _outline(entry, picture, note)
    box, area, crowd = entry.bbox, entry.area, entry.iscrowd
    if type(box) is not list or len(box) != 4 or not all(type(x) is float or type(x) is int for x in box):
        box = _box(entry, picture, outline, note)
        if box is None:
            note("have neither a box nor an outline and do not count", entry)
            return None
    if crowd not in (0, 1):
        crowd = _crowd(crowd)
    if (type(area) is not float and type(area) is not int) or not 0 <= area < math.inf:
        area = _area(entry, picture, outline, box, note)
    elif is_doubtful(area, box[2], box[3]) and outline is not None:
        pixels = float(mask_utils.area(_mask(outline, picture)))
        if is_wrong(area, pixels):
            note("state an area of another class of size than their outlines have: their pixels are counted", entry)
            area = pixels
    return CheckedObject(picture, category, box, area, int(crowd), outline)


def _mask(outline: Outline, picture: Picture) -> dict[str, Any]:
    """Returns the compressed run lengths of an outline, as pycocotools makes them."""
    value = _DECODE_ANY.decode(outline) if isinstance(outline, bytes | msgspec.Raw) else outline
    if isinstance(value, list):
        return dict(mask_utils.merge(mask_utils.frPyObjects(value, picture.height, picture.width)))
    assert isinstance(value, dict)
    return dict(mask_utils.frPyObjects(value, *value["size"])) if isinstance(value["counts"], list) else value


def _outline(entry: Entry, picture: Picture, note: Note) -> Outline:
    """Returns the object's outline; None if it has none."""
    try:
        polygons = _DECODE_POLYGONS.decode(entry.segmentation)
        if polygons and not any(len(polygon) % 2 for polygon in polygons):
            return entry.segmentation
    except msgspec.ValidationError:
        pass
    value = _DECODE_ANY.decode(entry.segmentation)
    if isinstance(value, dict):
        try:
            runs_of(value, picture.height, picture.width)
        except ValueError as error:
            raise BadObjectError(str(error)) from None
        return value
    if value is not None and not isinstance(value, list):
        raise BadObjectError("its segmentation is neither a list of polygons nor a run-length mask")
    kept = _polygons(value or [], entry, note)
    if not kept:
        note("have no outline: box AP counts them, mask AP does not", entry)
    return kept or None


def _polygons(value: list[Any], entry: Entry, note: Note) -> list[list[float]]:
    """Returns the polygons that have three or more points."""
    value, reshaped = listed_polygons(value)
    if reshaped is not None:
        note(f"have {reshaped}; they are taken as they are meant", entry)
    for polygon in value:
        if not isinstance(polygon, list) or not all(type(x) in (int, float) and abs(x) <= _FAR for x in polygon):
            raise BadObjectError("a polygon is not a list of numbers")
        if len(polygon) % 2:
            raise BadObjectError(f"a polygon has {len(polygon)} numbers, which are not pairs of x and y")
    kept = [polygon for polygon in value if len(polygon) >= 6]
    if kept and len(kept) < len(value):
        note("have pieces of fewer than three points, which are dropped", entry)
    return kept


def _box(entry: Entry, picture: Picture, outline: Outline, note: Note) -> list[float] | None:
    """Returns the box of an object whose own one is not four numbers; None if it has no outline either."""
    if isinstance(entry.bbox, list) and len(entry.bbox) == 4:
        numbers = [_number(x) for x in entry.bbox]
        known = [x for x in numbers if x is not None]
        if len(known) == 4:
            note("have numbers written as text", entry)
            return known
    if outline is None:
        return None
    note("have no box of four numbers: that of their outlines is taken", entry)
    return [float(x) for x in mask_utils.toBbox(_mask(outline, picture))]


def _crowd(value: Any) -> int:
    if value is None or value == "0":
        return 0
    if value == "1":
        return 1
    raise BadObjectError(f"iscrowd is {value!r:.40}, not 0 or 1")


def _area(entry: Entry, picture: Picture, outline: Outline, box: list[float], note: Note) -> float:
    """Returns the area of an object that states none."""
    stated = _number(entry.area)
    if stated is not None and stated >= 0:
        note("have numbers written as text", entry)
        return stated
    if outline is None:
        note("have no area: that of their boxes is taken", entry)
        return abs(box[2] * box[3])
    note("have no area: their pixels are counted", entry)
    return float(mask_utils.area(_mask(outline, picture)))


def _number(value: Any) -> float | None:
    """Returns a finite number, also one written as text; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
