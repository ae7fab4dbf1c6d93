"""The entries of COCO's annotation lists: decoding and checking them.

There are two checks with the same result. msgspec decodes many entries at once against the types below, and rejects all
of them if one does not match. Only then are the entries checked one by one in Python, which finds each problem, and
also accepts and notes what is written in another way than in COCO's files.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec

from panoptic_cli.coco.json_fields import (
    MAX_NUMBER,
    MAX_SIDE,
    FieldError,
    area_or_none,
    box_or_none,
    flag,
    integer,
    is_inside,
    relative_path,
    size_or_none,
)
from panoptic_cli.coco.json_index import JsonFile
from panoptic_cli.coco.problems import Notes
from panoptic_cli.images.panoptic_png import MAX_ID

MAX_SEGMENTS = 65534  # places in segments_info are stored in 16 bits


@dataclass(frozen=True, slots=True)
class SegmentInfo:
    """One entry of `segments_info`; area (pixels) and box (x, y, width, height) may be None."""

    id: int
    category_id: int
    is_crowd: bool
    area: int | None
    bbox: tuple[float, float, float, float] | None


@dataclass(frozen=True, slots=True)
class ObjectAnnotation:
    """One annotation of the instances JSON; id and segmentation are unchecked."""

    id: Any
    category_id: int
    is_crowd: bool
    area: float | None
    bbox: tuple[float, float, float, float] | None
    segmentation: Any


_Id = Annotated[int, msgspec.Meta(ge=0, le=1 << 62)]
_Flag = Literal[0, 1]
_Side = Annotated[int, msgspec.Meta(ge=1, le=MAX_SIDE)]
_Area = Annotated[float, msgspec.Meta(ge=0, le=MAX_SIDE**2)] | None
_Edge = Annotated[float, msgspec.Meta(gt=-MAX_NUMBER, lt=MAX_NUMBER)]
_Box = tuple[_Edge, _Edge, _Edge, _Edge] | None


class SoundImage(msgspec.Struct, gc=False):
    """A valid entry of `images`."""

    id: _Id
    width: _Side
    height: _Side
    file_name: str


class SoundSegment(msgspec.Struct, gc=False):
    """A valid entry of `segments_info`."""

    id: Annotated[int, msgspec.Meta(ge=1, le=MAX_ID)]
    category_id: _Id
    iscrowd: _Flag = 0
    area: _Area = None
    bbox: _Box = None


class SoundAnnotation(msgspec.Struct, gc=False):
    """A valid entry of a panoptic JSON's `annotations`."""

    image_id: _Id
    file_name: str
    segments_info: Annotated[list[SoundSegment], msgspec.Meta(max_length=MAX_SEGMENTS)]


class SoundObject(msgspec.Struct, gc=False):
    """A valid entry of an instances JSON's `annotations`; the contents of the segmentation are not checked."""

    id: _Id
    image_id: _Id
    category_id: _Id
    segmentation: list[msgspec.Raw] | dict[str, msgspec.Raw]
    iscrowd: _Flag = 0
    area: _Area = None
    bbox: _Box = None


DECODE_IMAGES = msgspec.json.Decoder(list[SoundImage])
DECODE_ANNOTATIONS = msgspec.json.Decoder(list[SoundAnnotation])
DECODE_OBJECTS = msgspec.json.Decoder(list[SoundObject])
_DECODE_ANY = msgspec.json.Decoder()


def decode_entry(data: bytes) -> Any:
    """Decodes one entry.

    Raises:
        ValueError: the data are not JSON.
        RecursionError: the data are nested too deeply.
    """
    try:
        return _DECODE_ANY.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return json.loads(data)  # accepts NaN too


def read_entry(file: JsonFile, start: int, end: int) -> Any:
    """Reads and decodes the entry between two places in a file.

    Raises:
        DataError: the entry is not JSON (an index only knows that its brackets match), or the file changed.
    """
    try:
        return decode_entry(file.read(start, end - start))
    except (ValueError, RecursionError) as error:
        raise file.broken(start, error) from None


def check_image(entry: dict[str, Any], notes: Notes | None = None) -> tuple[str, int, int]:
    """Returns (file name, width, height) of an entry of `images`, or raises FieldError; an unknown size is 0, 0."""
    width, height = size_or_none(entry, notes) or (0, 0)
    return relative_path(entry, "file_name"), width, height


def check_annotation(entry: dict[str, Any]) -> tuple[str, list[Any]]:
    """Returns (file name, segments_info unchecked) of a panoptic annotation, or raises FieldError."""
    name = relative_path(entry, "file_name")
    infos = entry.get("segments_info")
    if not isinstance(infos, list) or len(infos) > MAX_SEGMENTS:
        raise FieldError(f"segments_info must be a list of at most {MAX_SEGMENTS} segments")
    return name, infos


def check_segment(entry: Any, notes: Notes | None = None) -> SegmentInfo:
    """Returns an entry of segments_info, or raises FieldError."""
    if not isinstance(entry, dict):
        raise FieldError("it is not an object")
    area = area_or_none(entry, notes)
    return SegmentInfo(
        id=integer(entry, "id", 1, MAX_ID, notes),
        category_id=integer(entry, "category_id", notes=notes),
        is_crowd=flag(entry, "iscrowd", notes),
        area=None if area is None else round(area),
        bbox=box_or_none(entry, notes),
    )


def check_object(entry: dict[str, Any], notes: Notes | None = None) -> ObjectAnnotation:
    """Returns an entry of the instances JSON, or raises FieldError."""
    segmentation = entry.get("segmentation")
    return ObjectAnnotation(
        id=entry.get("id"),
        category_id=integer(entry, "category_id", notes=notes),
        is_crowd=flag(entry, "iscrowd", notes),
        area=area_or_none(entry, notes),
        bbox=box_or_none(entry, notes),
        segmentation=[] if segmentation is None else segmentation,  # left out as an empty mask
    )


def is_sound_image(entry: SoundImage) -> bool:
    """Whether a decoded entry also meets the conditions that its type does not express."""
    return is_inside(entry.file_name)


def is_sound_annotation(entry: SoundAnnotation, categories: frozenset[int]) -> bool:
    """Whether a decoded entry also meets the conditions that its type does not express."""
    segments = entry.segments_info
    known = {segment.category_id for segment in segments} <= categories
    return known and is_inside(entry.file_name) and len({segment.id for segment in segments}) == len(segments)
