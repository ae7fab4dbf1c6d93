"""Reading pictures with the outlines of their objects and stuff, from a COCO instances JSON and a COCO stuff JSON."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import msgspec
import numpy as np

from panoptic_cli import console
from panoptic_cli.categories import whole_number
from panoptic_cli.coco import json_entries
from panoptic_cli.coco.image_ids import id_key
from panoptic_cli.coco.json_fields import flag, relative_path
from panoptic_cli.coco.json_index import JsonFile, JsonIndex
from panoptic_cli.coco.json_kinds import INSTANCES, index_kind
from panoptic_cli.coco.tables import decode_list
from panoptic_cli.composition.vocabulary import CategoryList
from panoptic_cli.errors import DataError, counted


@dataclass(frozen=True, slots=True)
class Outline:
    """One annotation: its id, its category in the file, and its segmentation in COCO's form, unchecked."""

    id: Any
    category_id: int
    is_crowd: bool
    segmentation: Any
    is_stuff: bool  # from the stuff JSON


@dataclass(frozen=True, slots=True)
class AnnotatedPicture:
    """One picture.

    Attributes:
        entry: its entry of `images`.
        file_name: path of the picture, relative to the picture folder.
        outlines: its annotations, in the order of the files.
    """

    entry: dict[str, Any]
    file_name: str
    outlines: tuple[Outline, ...]


class _Owner(msgspec.Struct, gc=False):
    """The fields of an annotation that are read before its outline is needed."""

    image_id: int | float | str
    category_id: int | float | str


_DECODE_OWNERS = msgspec.json.Decoder(list[_Owner])


@dataclass(frozen=True)
class Outlines:
    """The annotations of one file, by picture.

    Attributes:
        file: the file.
        is_stuff: whether it is a stuff JSON.
        categories: the category ids that are used.
        spans: int64 [n, 2], begin and end of the entries in the file, sorted by picture.
        offsets: int64 [pictures + 1]; picture i has the rows offsets[i] to offsets[i + 1].
    """

    file: JsonFile
    is_stuff: bool
    categories: frozenset[Any]
    spans: np.ndarray
    offsets: np.ndarray

    def of(self, place: int) -> list[Outline]:
        """Reads the annotations of a picture.

        Raises:
            FieldError: `iscrowd` of an entry is neither 0 nor 1.
        """
        found = []
        for begin, end in self.spans[self.offsets[place] : self.offsets[place + 1]].tolist():
            entry = json_entries.read_entry(self.file, begin, end)
            if not isinstance(entry, dict):
                raise self.file.changed()
            is_crowd = flag({"iscrowd": entry.get("iscrowd") or 0}, "iscrowd")
            outline = entry.get("segmentation")
            category = _category_id(entry["category_id"])
            found.append(Outline(entry.get("id"), category, is_crowd, outline, self.is_stuff))
        return found


@dataclass(frozen=True)
class Source:
    """The pictures of a split as its files describe them. Their entries are read on demand.

    Attributes:
        file: the instances JSON.
        images: int64 [n, 2], begin and end of the entries of `images`.
        outlines: the annotations of each file.
        shared_stems: file names without ending that several pictures have.
        digests: digests of the bytes of the files.
    """

    file: JsonFile
    images: np.ndarray
    outlines: tuple[Outlines, ...]
    shared_stems: frozenset[str]
    digests: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.images)

    def entry(self, place: int) -> dict[str, Any]:
        """Reads a picture's entry of `images`."""
        entry = json_entries.read_entry(self.file, *self.images[place].tolist())
        if not isinstance(entry, dict):
            raise self.file.changed()
        return entry

    def picture(self, place: int) -> AnnotatedPicture:
        """Reads a picture.

        Raises:
            FieldError: its file name or an annotation is not usable.
            DataError: a file has changed.
        """
        entry = self.entry(place)
        name = relative_path({"file_name": plain_name(entry["file_name"])}, "file_name")
        return AnnotatedPicture(entry, name, tuple(o for file in self.outlines for o in file.of(place)))


def read_source(instances: Path, stuff: Path | None) -> tuple[Source, CategoryList, CategoryList | None]:
    """Indexes the annotation files.

    Args:
        instances: a COCO instances JSON.
        stuff: a COCO stuff JSON; its pictures are those of the instances JSON, by file name.

    Returns:
        The pictures, the categories of the instances JSON, and those of the stuff JSON.

    Raises:
        DataError: a file is missing, is not JSON or lacks a list, or its pictures and annotations are not clear.
    """
    index = index_kind(instances, "object annotations", ("images", "annotations", "categories"), INSTANCES)
    names = _read_names(index)
    places = {identifier: place for place, identifier in enumerate(names)}
    outlines = [_read_owners(index, places, len(names), is_stuff=False)]
    categories = CategoryList(decode_list(index, "categories"), instances)
    digests = [index.digest]
    stuff_categories = None
    if stuff is not None:
        other = index_kind(stuff, "stuff annotations", ("annotations", "categories"), INSTANCES)
        if "images" in other.lists:  # ids may differ between the files, names do not
            by_name = {name: place for place, name in enumerate(names.values())}
            places = {i: by_name[name] for i, name in _read_names(other).items() if name in by_name}
        outlines.append(_read_owners(other, places, len(names), is_stuff=True))
        stuff_categories = CategoryList(decode_list(other, "categories"), stuff)
        digests.append(other.digest)
    stems = Counter(PurePath(name).with_suffix("").as_posix() for name in names.values())
    shared = frozenset(stem for stem, count in stems.items() if count > 1)
    source = Source(index.file, index.entries["images"], tuple(outlines), shared, tuple(digests))
    return source, categories, stuff_categories


def _read_names(index: JsonIndex) -> dict[str, str]:
    """Returns the file name of each picture by the text of its id, in the order of the file.

    Raises:
        DataError: a picture has no id or no file name, or one that another picture has.
    """
    names: dict[str, str] = {}
    seen: set[str] = set()
    for _, text, spans in index.regions("images"):
        for entry in _decode_images(index, text, len(spans)):
            key, name = id_key(entry.get("id")), entry.get("file_name")
            where = f"{index.file.path}: images[{len(names)}]"
            if key is None or not isinstance(name, str):
                raise DataError(f"{where} has no {'id' if key is None else 'file_name'}.", "Add it.")
            name = plain_name(name)
            if key in names or name in seen:
                same = f"id {key}" if key in names else f"file name {name}"
                raise DataError(f"{where} has the {same} of another image.", "Remove one of them.")
            names[key] = name
            seen.add(name)
    return names


def _read_owners(index: JsonIndex, places: dict[str, int], pictures: int, *, is_stuff: bool) -> Outlines:
    """Finds out to which picture each annotation belongs.

    Raises:
        DataError: an annotation has no image id or no category, or none belongs to a picture.
    """
    rows = [np.empty(0, np.int64)]
    spans = [np.empty((0, 2), np.int64)]
    categories: set[Any] = set()
    for offset, text, found in index.regions("annotations"):
        try:
            entries = _DECODE_OWNERS.decode(b"".join((b"[", *index.without_long_values(offset, text), b"]")))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise _unusable(index, text, found, sum(map(len, rows)), error) from None
        rows.append(np.array([places.get(id_key(entry.image_id) or "", -1) for entry in entries], np.int64))
        spans.append(found + offset)
        categories.update(_category_id(entry.category_id) for entry in entries)
    owners, begins = np.concatenate(rows), np.concatenate(spans)
    known = owners >= 0
    if len(known) and not known.any():
        raise DataError(f"No annotation of {index.file.path} belongs to a picture.", "Compare image_id with images.")
    if not known.all():
        console.warn(
            f"{index.file.path}: {counted(int(np.count_nonzero(~known)), 'annotations')} of no picture in images"
        )
    order = np.argsort(owners[known], kind="stable")  # keeps the file's order within a picture
    offsets = np.searchsorted(owners[known][order], np.arange(pictures + 1))
    return Outlines(index.file, is_stuff, frozenset(categories), begins[known][order], offsets)


def _unusable(index: JsonIndex, text: bytes, spans: np.ndarray, first: int, error: Exception) -> DataError:
    """Returns the error for a region of annotations, the first of which has this place in the list."""
    for place, (begin, end) in enumerate(spans.tolist(), start=first):
        try:
            _DECODE_OWNERS.decode(b"[" + text[begin:end] + b"]")
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            where = f"{index.file.path}: annotations[{place}]"
            return DataError(f"{where} has no usable image_id or category_id.", "Each annotation needs both.")
    return index.file.invalid(error)


def plain_name(file_name: str) -> str:
    """Returns a file name with slashes between folders, where some tools write backslashes."""
    return file_name.replace("\\", "/")


def _category_id(value: Any) -> Any:
    """Returns an id that may be written as 7.0 or "7"; another value unchanged, so that it can be named."""
    number = whole_number(value)
    return value if number is None else number


def _decode_images(index: JsonIndex, text: bytes, count: int) -> list[dict[str, Any]]:
    """Decodes a region of `images`, all of whose entries must be objects.

    Raises:
        DataError: it is not JSON, or has other entries.
    """
    try:
        entries = list(json_entries.decode_entry(b"[" + text + b"]"))
    except (ValueError, RecursionError) as error:
        raise index.file.invalid(f"{error}, in images") from None
    if len(entries) != count or not all(isinstance(entry, dict) for entry in entries):
        raise DataError(f"{index.file.path}: an entry of images is not an object.", "Give a file in COCO's form.")
    return entries
