"""Reading the long lists of COCO's annotation files: which entry belongs to which picture, and problems."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from panoptic_cli.categories import CategoryTable
from panoptic_cli.coco import json_entries
from panoptic_cli.coco.json_entries import SoundAnnotation, SoundImage, SoundObject
from panoptic_cli.coco.json_fields import FieldError, integer_or_none
from panoptic_cli.coco.json_index import JsonIndex

_NO_SPACE = re.compile(rb"[^ \t\r\n]")
_OTHER_PICTURE = "picture not in the panoptic annotations"


@dataclass(frozen=True)
class Problem:
    """A problem in the annotation files.

    Attributes:
        kind: the kind of problem, in the same words for every problem of that kind.
        message: one line that names file and place.
        picture: the id of the affected image, None for the whole file.
    """

    kind: str
    message: str
    picture: int | None


@dataclass(frozen=True)
class Rows:
    """Entries of a list.

    Attributes:
        ids: int64 [n], image ids.
        places: int64 [n], places in the list.
        spans: int64 [n, 2], begin and end of the entries in the file.
        keys: int64 [n, 2], annotation id and category id of objects; zeros for other entries.
    """

    ids: np.ndarray
    places: np.ndarray
    spans: np.ndarray
    keys: np.ndarray

    @classmethod
    def empty(cls) -> Rows:
        """Returns no rows."""
        return _rows(np.empty((0, 6), np.int64))

    def __len__(self) -> int:
        return len(self.ids)

    def select(self, which: np.ndarray) -> Rows:
        """Returns the rows that a mask or an array of places selects."""
        return Rows(self.ids[which], self.places[which], self.spans[which], self.keys[which])

    def sorted_by_id(self) -> Rows:
        """Returns the rows sorted by image id; rows of the same picture stay in file order."""
        return self.select(np.argsort(self.ids, kind="stable"))

    def without(self, ids: set[int | None]) -> Rows:
        """Returns the rows of the pictures that do not have these ids."""
        return self.select(~np.isin(self.ids, _array(ids)))


_Row = tuple[int, int, int]  # image id, annotation id, category id


def _rows(table: np.ndarray) -> Rows:
    """Returns rows from int64 [n, 6]: place, begin, end, image id, annotation id, category id."""
    return Rows(*(np.ascontiguousarray(part) for part in (table[:, 3], table[:, 0], table[:, 1:3], table[:, 4:6])))


def _read(
    index: JsonIndex,
    key: str,
    decoder: msgspec.json.Decoder[Any],
    quick: Callable[[list[Any]], tuple[list[list[int]], list[int]]],
    thorough: Callable[[dict[str, Any], str], _Row | None],
    problems: list[Problem],
    skim: bool = False,
) -> Rows:
    """Reads a list, quickly if its entries are valid.

    Args:
        index: index of the file.
        key: key of the list.
        decoder: decoder for a list of valid entries.
        quick: returns the columns (image ids, annotation ids, category ids) of valid entries, and the places of entries
            that need the thorough check.
        thorough: returns the row of a decoded entry, given with its place in words; None if it reported problems.
        problems: receives entries that are not objects.
        skim: leave long objects and lists undecoded; `quick` does not need their contents.
    """
    tables = [np.empty((0, 6), np.int64)]
    done = 0
    for offset, text, spans in index.regions(key):
        pieces = index.without_long_values(offset, text) if skim else (text,)
        try:
            sound: list[Any] = decoder.decode(b"".join((b"[", *pieces, b"]")))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):  # msgspec accepts bad UTF-8 inside strings
            sound = []
        elements: Iterable[tuple[int, Any, int, int]]
        if len(sound) == len(spans) > 0:
            columns, doubtful = quick(sound)
            table = np.column_stack([np.arange(done, done + len(sound)), spans + offset, *map(np.array, columns)])
            tables.append(np.delete(table, doubtful, axis=0) if doubtful else table)
            found = ((i, *spans[i].tolist()) for i in doubtful)
            elements = ((i, json_entries.read_entry(index.file, offset + b, offset + e), b, e) for i, b, e in found)
        else:
            elements = ((i, *element) for i, element in enumerate(_walk(index, text)))
        count = len(sound)
        for place, entry, begin, end in elements:
            where = f"{index.file.path}: {key}[{done + place}]"
            if not isinstance(entry, dict):
                problems.append(Problem(f"malformed {key}", f"{where} is not an object", None))
            elif (row := thorough(entry, where)) is not None:
                tables.append(np.array([(done + place, offset + begin, offset + end, *row)], np.int64))
            count = max(count, place + 1)
        done += count
    table = np.concatenate(tables)
    return _rows(table[np.argsort(table[:, 0], kind="stable")])


def _walk(index: JsonIndex, text: bytes) -> Iterator[tuple[Any, int, int]]:
    """Yields (value, begin, end) of the entries of a region one by one.

    Raises:
        DataError: the region is not JSON.
    """
    # One character for each byte keeps places right; values are decoded again from their bytes.
    characters, decoder = text.decode("latin-1"), json.JSONDecoder()

    def skip(place: int) -> int:
        found = _NO_SPACE.search(text, place)
        return found.start() if found else len(text)

    place = skip(0)
    try:
        while place < len(text):
            _, end = decoder.raw_decode(characters, place)
            yield json.loads(text[place:end]), place, end
            place = skip(end)
            if place == len(text):
                return
            if characters[place] != ",":
                raise ValueError(f"a comma is missing between entries, before {characters[place : place + 20]!r}")
            place = skip(place + 1)
            if place == len(text):
                raise ValueError("a list ends with a comma")
    except (ValueError, RecursionError) as error:
        raise index.file.invalid(error) from None


def read_images(index: JsonIndex, problems: list[Problem]) -> Rows:
    """Reads `images`; adds what is wrong, duplicates included, to `problems`."""

    def quick(entries: list[SoundImage]) -> tuple[list[list[int]], list[int]]:
        doubtful = [i for i, entry in enumerate(entries) if not json_entries.is_sound_image(entry)]
        return [[entry.id for entry in entries], *[[0] * len(entries)] * 2], doubtful

    def thorough(entry: dict[str, Any], where: str) -> _Row | None:
        try:
            return json_entries.check_image(entry)[0], 0, 0
        except FieldError as error:
            known = integer_or_none(entry.get("id"))
            problems.append(Problem("malformed images", f"{where} (id {known}): {error}", known))
            return None

    rows = _read(index, "images", json_entries.DECODE_IMAGES, quick, thorough, problems)
    first = _first_of_each(rows.ids)
    for row in np.flatnonzero(~first):
        identifier, where = int(rows.ids[row]), f"{index.file.path}: images[{rows.places[row]}]"
        problems.append(Problem("duplicate image id", f"{where}: image id {identifier} occurs twice", identifier))
    return rows.select(first)


def read_panoptic_annotations(index: JsonIndex, table: CategoryTable, images: Rows, problems: list[Problem]) -> Rows:
    """Reads the panoptic `annotations` of the images; adds what is wrong to `problems`."""
    categories = frozenset(table.by_id)
    known_images = set(images.ids.tolist())
    malformed = {problem.picture for problem in problems} - known_images  # their annotations are not another problem
    named: set[int | None] = set()

    def quick(entries: list[SoundAnnotation]) -> tuple[list[list[int]], list[int]]:
        doubtful = [i for i, entry in enumerate(entries) if not json_entries.is_sound_annotation(entry, categories)]
        return [[entry.image_id for entry in entries], *[[0] * len(entries)] * 2], doubtful

    def thorough(entry: dict[str, Any], where: str) -> _Row | None:
        known = integer_or_none(entry.get("image_id"))
        named.add(known)
        try:
            identifier, _, infos = json_entries.check_annotation(entry)
        except FieldError as error:
            problems.append(Problem("malformed annotations", f"{where} (image {known}): {error}", known))
            return None
        if identifier in known_images:
            _check_segments(infos, f"{where} (image {identifier})", identifier, categories, problems)
        return identifier, 0, 0

    rows = _read(index, "annotations", json_entries.DECODE_ANNOTATIONS, quick, thorough, problems)
    rows = rows.without(malformed)
    unknown, first = ~np.isin(rows.ids, images.ids), _first_of_each(rows.ids)
    for row in np.flatnonzero(unknown | ~first):
        identifier, where = int(rows.ids[row]), f"{index.file.path}: annotations[{rows.places[row]}]"
        if unknown[row]:
            message = f"{where}: image id {identifier} is not in images"
            problems.append(Problem("annotation without image", message, identifier))
        else:
            problems.append(
                Problem("duplicate annotation", f"{where}: image {identifier} is annotated twice", identifier)
            )
    lonely = images.without({*rows.ids.tolist(), *named}).sorted_by_id()
    for identifier, (begin, end) in zip(lonely.ids.tolist(), lonely.spans.tolist(), strict=True):
        name = json_entries.read_entry(index.file, begin, end).get("file_name")
        message = f"{index.file.path}: image {identifier} ({name}) has no entry in annotations"
        problems.append(Problem("image without annotation", message, identifier))
    return rows.select(first & ~unknown)


def _check_segments(
    infos: list[Any], where: str, picture: int, categories: frozenset[int], problems: list[Problem]
) -> None:
    seen: set[int] = set()
    for place, entry in enumerate(infos):
        here = f"{where}, segments_info[{place}]"
        try:
            segment = json_entries.check_segment(entry)
        except FieldError as error:
            problems.append(Problem("malformed segment", f"{here}: {error}", picture))
            continue
        if segment.id in seen:
            problems.append(Problem("duplicate segment id", f"{here}: segment id {segment.id} occurs twice", picture))
        elif segment.category_id not in categories:
            message = f"{here}: category {segment.category_id} is not in categories"
            problems.append(Problem("unknown category", message, picture))
        seen.add(segment.id)


def read_objects(
    index: JsonIndex, table: CategoryTable, images: Rows, problems: list[Problem], ignored: dict[str, int]
) -> Rows:
    """Reads the `annotations` of an instances JSON that belong to the images; adds what is wrong to `problems`.

    For a subset, the panoptic file selects the pictures and the instances file may describe the whole set. So objects
    of other pictures are not a problem; they are counted in `ignored`.
    """
    known_images = set(images.ids.tolist())
    malformed = {problem.picture for problem in problems} - known_images

    def quick(entries: list[SoundObject]) -> tuple[list[list[int]], list[int]]:
        ids = [entry.image_id for entry in entries]
        return [ids, [entry.id for entry in entries], [entry.category_id for entry in entries]], []

    def thorough(entry: dict[str, Any], where: str) -> _Row | None:
        known = integer_or_none(entry.get("image_id"))
        if known is not None and known not in known_images:
            if known not in malformed:
                ignored[_OTHER_PICTURE] = ignored.get(_OTHER_PICTURE, 0) + 1
            return None
        try:
            identifier, annotation = json_entries.check_object(entry)
        except FieldError as error:
            problems.append(Problem("malformed object", f"{where} (image {known}): {error}", known))
            return None
        return identifier, annotation.id, annotation.category_id

    rows = _read(index, "annotations", json_entries.DECODE_OBJECTS, quick, thorough, problems, skim=True)
    rows = rows.without(malformed)
    ours = np.isin(rows.ids, images.ids)
    if not ours.all():
        ignored[_OTHER_PICTURE] = ignored.get(_OTHER_PICTURE, 0) + int(np.count_nonzero(~ours))
    rows = rows.select(ours)
    things = np.isin(rows.keys[:, 1], _array({c.id for c in table.categories if c.isthing}))
    first = _first_of_each(rows.keys[:, 0])
    for row in np.flatnonzero(~things | ~first):
        identifier, (annotation, category) = int(rows.ids[row]), rows.keys[row].tolist()
        where = f"{index.file.path}: annotations[{rows.places[row]}] (image {identifier})"
        if not things[row]:
            reason = "is stuff, not a thing" if category in table.by_id else "is not in the panoptic categories"
            message = f"{where}: category {category} {reason}"
            problems.append(Problem("object of no thing category", message, identifier))
        else:
            message = f"{where}: annotation id {annotation} occurs twice"
            problems.append(Problem("duplicate annotation id", message, identifier))
    return rows.select(things & first)


def _first_of_each(values: np.ndarray) -> np.ndarray:
    """Returns a mask of the first occurrence of each value: bool [n]."""
    first = np.zeros(len(values), bool)
    first[np.unique(values, return_index=True)[1]] = True
    return first


def _array(ids: set[Any]) -> np.ndarray:
    """Returns the ids that fit 64 bits as an array; no accepted file has others."""
    return np.array([i for i in ids if i is not None and -(1 << 63) <= i < 1 << 63], np.int64)
