"""Reading the long lists of COCO's annotation files: which entry belongs to which picture, and problems."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from panoptic_cli.coco import json_entries
from panoptic_cli.coco.image_ids import ImageIds
from panoptic_cli.coco.json_entries import SoundAnnotation, SoundImage
from panoptic_cli.coco.json_fields import FieldError
from panoptic_cli.coco.json_index import JsonIndex
from panoptic_cli.coco.problems import Notes, Problem

UNANNOTATED = "image without annotation"  # the kind of this problem

_NO_SPACE = re.compile(rb"[^ \t\r\n]")


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

    @classmethod
    def without_entries(cls, ids: list[int]) -> Rows:
        """Returns rows of pictures that have no entry in the list: begin and end are equal."""
        table = np.zeros((len(ids), 6), np.int64)
        table[:, 3] = ids
        return _rows(table)

    def __len__(self) -> int:
        return len(self.ids)

    def joined(self, other: Rows) -> Rows:
        """Returns these rows and then those of another list."""
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return Rows(*(np.concatenate(pair) for pair in pairs))

    def select(self, which: np.ndarray) -> Rows:
        """Returns the rows that a mask or an array of places selects."""
        return Rows(self.ids[which], self.places[which], self.spans[which], self.keys[which])

    def sorted_by_id(self) -> Rows:
        """Returns the rows sorted by image id; rows of the same picture stay in file order."""
        return self.select(np.argsort(self.ids, kind="stable"))

    def without(self, ids: set[int | None]) -> Rows:
        """Returns the rows of the pictures that do not have these ids."""
        return self.select(~np.isin(self.ids, id_array(ids)))


Row = tuple[int, int, int]  # image id, annotation id, category id


def _rows(table: np.ndarray) -> Rows:
    """Returns rows from int64 [n, 6]: place, begin, end, image id, annotation id, category id."""
    return Rows(*(np.ascontiguousarray(part) for part in (table[:, 3], table[:, 0], table[:, 1:3], table[:, 4:6])))


def read_list(
    index: JsonIndex,
    key: str,
    decoder: msgspec.json.Decoder[Any],
    quick: Callable[[list[Any]], tuple[list[list[int]], list[int]]],
    thorough: Callable[[dict[str, Any], str], Row | None],
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
            where = f"{key}[{done + place}]"
            if not isinstance(entry, dict):
                problems.append(Problem(f"malformed {key}", index.file.path, f"{where} is not an object", None))
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


def read_images(index: JsonIndex, problems: list[Problem], notes: Notes) -> tuple[Rows, ImageIds]:
    """Reads `images`; adds what is wrong, duplicates included, to `problems`.

    Ids that are no numbers make all pictures be numbered anew.
    """
    ids = ImageIds()
    found: list[Problem] = []
    assumed = Notes()
    rows = _read_images(index, ids, found, assumed)
    if ids.texts:
        texts = ids.texts
        ids = ImageIds({}, learn=True)
        found, assumed = [], Notes()
        rows = _read_images(index, ids, found, assumed)
        ids.close()
        detail = "the pictures are numbered from 1 in the order of images, and keep their file names"
        assumed.add(f"image ids that are no numbers, such as {texts[0]!r:.60}", detail, len(texts))
    problems += found
    notes.update(assumed)
    return rows, ids


def _read_images(index: JsonIndex, ids: ImageIds, problems: list[Problem], notes: Notes) -> Rows:
    def quick(entries: list[SoundImage]) -> tuple[list[list[int]], list[int]]:
        doubtful = [i for i, entry in enumerate(entries) if not json_entries.is_sound_image(entry)]
        return [ids.of_all([entry.id for entry in entries]), *[[0] * len(entries)] * 2], doubtful

    def thorough(entry: dict[str, Any], where: str) -> Row | None:
        try:
            identifier = ids.read(entry, "id", notes)
            json_entries.check_image(entry, notes)
        except FieldError as error:
            message = f"{where} (id {entry.get('id')!r:.40}): {error}"
            problems.append(Problem("malformed images", index.file.path, message, ids.number(entry.get("id"))))
            return None
        return identifier, 0, 0

    rows = read_list(index, "images", json_entries.DECODE_IMAGES, quick, thorough, problems)
    first = first_of_each(rows.ids)
    for row in np.flatnonzero(~first):
        identifier, where = int(rows.ids[row]), f"images[{rows.places[row]}]"
        message = f"{where}: image id {ids.shown(identifier)} occurs twice"
        problems.append(Problem("duplicate image id", index.file.path, message, identifier))
    return rows.select(first)


def read_panoptic_annotations(
    index: JsonIndex,
    categories: frozenset[int],
    images: Rows,
    ids: ImageIds,
    problems: list[Problem],
    notes: Notes,
) -> tuple[Rows, Counter[int]]:
    """Reads the panoptic `annotations` of the images; adds what is wrong to `problems`.

    Args:
        index: index of the panoptic JSON.
        categories: the file's category ids.
        images: the rows of `images`.
        ids: numbers the images.
        problems: receives problems.
        notes: receives what was assumed.

    Returns:
        The rows, and the number of segments by category id.
    """
    segments: Counter[int] = Counter()
    known_images = set(images.ids.tolist())
    malformed = {problem.picture for problem in problems} - known_images  # their annotations are not another problem
    named: set[int | None] = set()
    file = index.file.path

    def quick(entries: list[SoundAnnotation]) -> tuple[list[list[int]], list[int]]:
        doubtful = [i for i, entry in enumerate(entries) if not json_entries.is_sound_annotation(entry, categories)]
        pictures = ids.of_all([entry.image_id for entry in entries])
        counted = known_images.difference(pictures[i] for i in doubtful)  # `thorough` counts the doubtful ones
        pairs = zip(entries, pictures, strict=True)
        segments.update(s.category_id for entry, picture in pairs if picture in counted for s in entry.segments_info)
        return [pictures, *[[0] * len(entries)] * 2], doubtful

    def thorough(entry: dict[str, Any], where: str) -> Row | None:
        known = ids.number(entry.get("image_id"))
        named.add(known)
        here = f"{where} (image {entry.get('image_id')!r:.40})"
        try:
            identifier = ids.read(entry, "image_id", notes)
            _, infos = json_entries.check_annotation(entry)
        except FieldError as error:
            problems.append(Problem("malformed annotations", file, f"{here}: {error}", known))
            return None
        if identifier in known_images:
            segments.update(_check_segments(infos, here, identifier, categories, file, problems, notes))
        return identifier, 0, 0

    rows = read_list(index, "annotations", json_entries.DECODE_ANNOTATIONS, quick, thorough, problems)
    rows = rows.without(malformed)
    unknown, first = ~np.isin(rows.ids, images.ids), first_of_each(rows.ids)
    for row in np.flatnonzero(unknown | ~first):
        identifier, where = int(rows.ids[row]), f"annotations[{rows.places[row]}]"
        shown = ids.shown(identifier)
        if unknown[row]:
            message = f"{where}: image id {shown} is not in images"
            problems.append(Problem("annotation without image", file, message, identifier))
        else:
            problems.append(
                Problem("duplicate annotation", file, f"{where}: image {shown} is annotated twice", identifier)
            )
    lonely = images.without({*rows.ids.tolist(), *named}).sorted_by_id()
    for identifier, (begin, end) in zip(lonely.ids.tolist(), lonely.spans.tolist(), strict=True):
        name = json_entries.read_entry(index.file, begin, end).get("file_name")
        message = f"image {ids.shown(identifier)} ({name}) has no entry in annotations"
        problems.append(Problem(UNANNOTATED, file, message, identifier))
    return rows.select(first & ~unknown), segments


def _check_segments(
    infos: list[Any],
    where: str,
    picture: int,
    categories: frozenset[int],
    file: Path,
    problems: list[Problem],
    notes: Notes,
) -> list[int]:
    """Checks segments_info and returns the category ids of the usable segments."""
    seen: set[int] = set()
    found: list[int] = []
    for place, entry in enumerate(infos):
        here = f"{where}, segments_info[{place}]"
        try:
            segment = json_entries.check_segment(entry, notes)
        except FieldError as error:
            problems.append(Problem("malformed segment", file, f"{here}: {error}", picture))
            continue
        if segment.id in seen:
            message = f"{here}: segment id {segment.id} occurs twice"
            problems.append(Problem("duplicate segment id", file, message, picture))
        elif segment.category_id not in categories:
            message = f"{here}: category {segment.category_id} is not in categories"
            problems.append(Problem("unknown category", file, message, picture))
        else:
            found.append(segment.category_id)
        seen.add(segment.id)
    return found


def first_of_each(values: np.ndarray) -> np.ndarray:
    """Returns a mask of the first occurrence of each value: bool [n]."""
    first = np.zeros(len(values), bool)
    first[np.unique(values, return_index=True)[1]] = True
    return first


def id_array(ids: set[Any]) -> np.ndarray:
    """Returns the ids that fit 64 bits as an array; no accepted file has others."""
    return np.array([i for i in ids if i is not None and -(1 << 63) <= i < 1 << 63], np.int64)
