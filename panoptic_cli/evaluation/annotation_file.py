"""Reading a COCO instances JSON for average precision, and checking all of it before a network runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from panoptic_cli.categories import CategoryTable, whole_number
from panoptic_cli.coco.category_names import category_names, map_categories
from panoptic_cli.coco.image_ids import ImageId, image_key
from panoptic_cli.coco.image_names import pair_images
from panoptic_cli.errors import DataError, counted, listed, summarize
from panoptic_cli.evaluation.object_entries import BadObjectError, CheckedObject, Entry, Picture, check_entry
from panoptic_cli.files import read_json
from panoptic_cli.records.headers import RecordHeader

_GIVE = "Give --annotation-file the instances JSON (instances_*.json) of the validation pictures, or omit it."
_SHOWN = 3


class _Image(msgspec.Struct):
    """An entry of `images`, of any types."""

    id: Any = None
    file_name: Any = None
    width: Any = None
    height: Any = None


class _File(msgspec.Struct):
    """The file. Unknown keys are skipped without decoding them."""

    images: list[_Image] | None = None
    annotations: list[Entry] | None = None
    categories: list[Any] | None = None


_DECODER = msgspec.json.Decoder(_File)


@dataclass
class InstanceAnnotations:
    """The objects of some pictures, ready to be scored.

    Attributes:
        images: COCO's entry of each picture, with the ids of the records.
        objects: the objects in these pictures, with categories of the model.
        notes: what was assumed, one line each.
    """

    images: list[dict[str, Any]]
    objects: list[CheckedObject]
    notes: list[str] = field(default_factory=list)

    def to_coco(self, categories: CategoryTable, *, masks: bool) -> dict[str, Any]:
        """Returns a COCO instances JSON.

        Args:
            categories: the things in it become its categories.
            masks: whether the objects have a segmentation, which leaves out those without; otherwise they have none.
        """
        objects = [o for o in self.objects if o.has_outline] if masks else self.objects
        return {
            "images": self.images,
            "annotations": [o.to_coco(with_mask=masks) for o in objects],
            "categories": [{"id": c.id, "name": c.name} for c in categories.things],
        }


def read_annotation_file(path: Path, table: CategoryTable, pictures: Sequence[RecordHeader]) -> InstanceAnnotations:
    """Reads a COCO instances JSON.

    What is clear is put right, and told in `notes`: other image or category ids where the names agree, missing sizes,
    areas and boxes, objects without an outline.

    Args:
        path: the file.
        table: the categories of the model.
        pictures: the pictures to be scored; objects of others are ignored.

    Raises:
        DataError: the file is missing, is no instances JSON, belongs to other pictures or categories, or has objects
            that cannot be used; names file, picture and annotation.
    """
    content = _decode(path)
    images, notes = _pair(path, content.images or [], pictures)
    entries = content.annotations or []
    counts = _Counts(path)
    ours = [(place, entry, picture) for place, entry, picture in _of_pictures(entries, images, content, counts)]
    categories = _categories(path, content.categories or [], table, ours, notes)
    things = {category.id for category in table.things}
    objects, problems = [], []
    for place, entry, picture in ours:
        try:
            category = categories[entry.category_id]
            if isinstance(entry.category_id, str):
                counts.add("have numbers written as text", entry)
            if category not in things:
                counts.add("are stuff in the model: not counted, because average precision is of things", entry)
                continue
            checked = check_entry(entry, picture, category, counts.add)
        except BadObjectError as error:
            problems.append(f"{error} (annotations[{place}], id {entry.id}, of image {entry.image_id})")
            continue
        if checked is not None:
            objects.append(checked)
    if problems:
        raise DataError(
            f"{counted(len(problems), 'objects')} of {path} cannot be used: {summarize(problems, _SHOWN)}.",
            "Correct them, or omit --annotation-file: records have objects of their own.",
        )
    if not objects:
        notes.append(f"{path} has no object in these pictures, so box and mask AP are n/a.")
    sizes = [{"id": p.id, "height": p.height, "width": p.width} for p in images.values()]
    return InstanceAnnotations(sizes, objects, [*notes, *counts.lines()])


@dataclass
class _Counts:
    """Counts what was put right, by kind."""

    path: Path
    _found: dict[str, tuple[int, str]] = field(default_factory=dict)

    def add(self, kind: str, entry: Entry) -> None:
        count, first = self._found.get(kind, (0, f"annotation {entry.id} of image {entry.image_id}"))
        self._found[kind] = count + 1, first

    def lines(self) -> list[str]:
        return [
            f"{self.path}: {counted(n, f'objects {kind}')} (first: {first})."
            for kind, (n, first) in self._found.items()
        ]


def _decode(path: Path) -> _File:
    """Decodes the file and recognises COCO's other JSONs."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"The object annotations {path} do not exist.", _GIVE) from None
    except OSError as error:
        raise DataError(f"The object annotations {path} cannot be read: {error.strerror}.") from error
    try:
        file = _DECODER.decode(content)
    except msgspec.ValidationError as error:
        raise DataError(f"{path} is not a COCO instances JSON: {error}.", _GIVE) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        # Python reads NaN, which becomes null here, and says where other files are broken.
        value = read_json(path, "object annotations")
        try:
            file = _DECODER.decode(msgspec.json.encode(value))
        except (msgspec.ValidationError, OverflowError) as error:
            raise DataError(f"{path} is not a COCO instances JSON: {error}.", _GIVE) from None
    lacking = [name for name in ("images", "annotations", "categories") if getattr(file, name) is None]
    first = file.annotations[0] if file.annotations else Entry()
    if bytes(first.segments_info) != b"null" and first.bbox is None:
        raise DataError(f"{path} is a panoptic JSON (it has segments_info).", _GIVE)
    if bytes(first.caption) != b"null":
        raise DataError(f"{path} is a captions JSON.", _GIVE)
    if lacking:
        raise DataError(f"{path} is not a COCO instances JSON: it has no list of {listed(lacking)}.", _GIVE)
    return file


def _pair(
    path: Path, entries: list[_Image], pictures: Sequence[RecordHeader]
) -> tuple[dict[ImageId, Picture], list[str]]:
    """Finds the pictures of the records in the file; returns them by their ids in the file, and notes."""
    listed_images: dict[ImageId, _Image] = {}
    for entry in entries:
        if (key := image_key(entry.id)) is not None:
            listed_images.setdefault(key, entry)
    names = {key: e.file_name if isinstance(e.file_name, str) else "" for key, e in listed_images.items()}
    headers = {p.image_id: p for p in pictures}
    pairing = pair_images({p.image_id: p.file_name for p in pictures}, names, "the records", str(path))
    if missing := pairing.missing:
        described = listed([f"{i} {headers[i].file_name}".rstrip() for i in missing], _SHOWN)
        raise DataError(
            f"{path} lacks {len(missing)} of the {len(pictures)} pictures of the records: {described}.", _GIVE
        )
    notes = [pairing.note] if pairing.note else []
    if any(isinstance(entry.id, str) and isinstance(image_key(entry.id), int) for entry in entries):
        notes.append(f"{path} has image ids that are text: they are taken as numbers.")
    without_size, other_size = [], []
    for ours, theirs in pairing.pairs.items():
        header, size = headers[ours], _size(listed_images[theirs])
        if size is None:
            without_size.append(ours)
        elif header.width and size != (header.width, header.height):
            sides = " x ".join(map(str, size)), f"{header.width} x {header.height}"
            other_size.append(f"{ours} {header.file_name} is {sides[0]} there, {sides[1]} in the records")
    if other_size:
        raise DataError(
            f"{path} has other sizes (width x height) than the records for {len(other_size)} of {len(pictures)} "
            f"pictures: {listed(other_size, _SHOWN)}.",
            "Its boxes and outlines are those of other pictures: " + _GIVE[0].lower() + _GIVE[1:],
        )
    if without_size:
        notes.append(
            f"{path} has no sizes for {counted(len(without_size), 'pictures')}: they are taken from the records."
        )
    found = {}
    for ours, theirs in pairing.pairs.items():
        header = headers[ours]
        width, height = (header.width, header.height) if header.width else _size(listed_images[theirs]) or (0, 0)
        found[theirs] = Picture(ours, height, width)
    return found, notes


def _size(image: _Image) -> tuple[int, int] | None:
    """Returns (width, height) of an entry of `images`; None if it has none that could be."""
    sides = tuple(image_key(side) for side in (image.width, image.height))
    return sides if all(isinstance(side, int) and side > 0 for side in sides) else None  # type: ignore[return-value]


def _of_pictures(
    entries: list[Entry], images: dict[ImageId, Picture], content: _File, counts: _Counts
) -> list[tuple[int, Entry, Picture]]:
    """Returns the objects in the pictures, with their places in the file."""
    known = {image_key(image.id) for image in content.images or ()}
    found = []
    for place, entry in enumerate(entries):
        key = entry.image_id if type(entry.image_id) is int else image_key(entry.image_id)
        if key is not None and (picture := images.get(key)) is not None:
            found.append((place, entry, picture))
        elif key not in known:
            counts.add("of no image of the file: not counted", entry)
    return found


def _categories(
    path: Path,
    entries: list[Any],
    table: CategoryTable,
    ours: list[tuple[int, Entry, Picture]],
    notes: list[str],
) -> dict[Any, int]:
    """Returns {category id as the objects have it: id in the table}."""
    names = category_names(entries)
    used: dict[Any, int] = {}
    unknown = []
    for place, entry, _ in ours:
        raw = entry.category_id if isinstance(entry.category_id, int | float | str) else None
        if raw in used:
            continue
        if (key := whole_number(raw)) is None or key not in names:
            unknown.append(f"{entry.category_id!r} (annotations[{place}], id {entry.id}, of image {entry.image_id})")
        else:
            used[raw] = key
    if unknown:
        raise DataError(
            f"{path} has objects of categories that it does not list: {listed(unknown, _SHOWN)}.",
            "Correct them, or omit --annotation-file: records have objects of their own.",
        )
    mapping, note = map_categories(names, set(used.values()), table, str(path), "the model")
    if note is not None:
        notes.append(note)
    return {raw: key if mapping is None else mapping[key] for raw, key in used.items()}
