"""Reading the instances JSON of a panoptic JSON: which object is in which picture, and of which category."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from panoptic_cli.categories import Category, CategoryTable, whole_number
from panoptic_cli.coco import json_entries
from panoptic_cli.coco.category_names import pair_categories
from panoptic_cli.coco.image_ids import ImageIds
from panoptic_cli.coco.image_numbers import number_images
from panoptic_cli.coco.json_entries import SoundObject
from panoptic_cli.coco.json_fields import FieldError
from panoptic_cli.coco.json_index import JsonIndex
from panoptic_cli.coco.lists import Row, Rows, first_of_each, id_array, read_list
from panoptic_cli.coco.problems import Notes, Problem

OTHER_PICTURE = "picture not in the panoptic annotations"
_HARDLY_ANY = 0.1  # objects for each thing segment; COCO has 0.9 to 1.1
_FEW = 0.5
_NO_ID = -1


@dataclass
class Objects:
    """The objects of an instances JSON.

    Attributes:
        rows: the entries of the panoptic JSON's pictures.
        categories: the table's category id for each id of the file.
        ignored: number of ignored entries by reason.
        count_areas: whether `area` says nothing, so that pixels have to be counted.
        image_ids: numbers the pictures by the file's image ids.
    """

    rows: Rows
    categories: dict[int, int] = field(default_factory=dict)
    ignored: dict[str, int] = field(default_factory=dict)
    count_areas: bool = False
    image_ids: ImageIds = field(default_factory=ImageIds)


class _Areas:
    """Finds out whether the `area` of all objects is a placeholder: 1 or 0."""

    def __init__(self) -> None:
        self.stated, self.largest = 0, 0.0

    @property
    def are_placeholders(self) -> bool:
        """Whether no area so far is larger than a pixel."""
        return self.largest <= 1

    def add(self, areas: Iterable[float | None]) -> None:
        stated = [area for area in areas if area is not None]
        self.stated += len(stated)
        self.largest = max([self.largest, *stated])


def read_objects(
    index: JsonIndex,
    panoptic: JsonIndex,
    table: CategoryTable,
    added: int,
    images: Rows,
    ids: ImageIds,
    things: int,
    problems: list[Problem],
    notes: Notes,
) -> Objects:
    """Reads the `annotations` of an instances JSON that belong to the images; adds what is wrong to `problems`.

    For a subset, the panoptic file selects the pictures and the instances file may describe the whole set. So objects
    of other pictures are not a problem; they are counted in `ignored`.

    Args:
        index: index of the instances JSON.
        panoptic: index of the panoptic JSON.
        table: the categories.
        added: what was added to the category ids of the panoptic JSON.
        images: the images of the panoptic JSON.
        ids: numbers these images.
        things: number of the thing segments of the panoptic JSON.
        problems: receives problems, also contradictions between the two files.
        notes: receives what was assumed.
    """
    known_images = set(images.ids.tolist())
    malformed = {problem.picture for problem in problems} - known_images
    categories = pair_categories(index, table, added, panoptic, notes, problems)
    ids = number_images(index, panoptic, ids, known_images, notes, problems)
    areas = _Areas()
    foreign = 0
    file = index.file.path

    def quick(entries: list[SoundObject]) -> tuple[list[list[int]], list[int]]:
        pictures = ids.of_all([entry.image_id for entry in entries])
        if areas.are_placeholders:
            areas.add(e.area for e, picture in zip(entries, pictures, strict=True) if picture in known_images)
        return [pictures, [entry.id for entry in entries], [entry.category_id for entry in entries]], []

    def thorough(entry: dict[str, Any], where: str) -> Row | None:
        nonlocal foreign
        known = ids.number(entry.get("image_id"))
        if known is not None and known not in known_images:
            foreign += known not in malformed
            return None
        try:
            annotation = json_entries.check_object(entry, notes)
            identifier = ids.read(entry, "image_id", notes)
        except FieldError as error:
            message = f"{where} (image {entry.get('image_id')!r:.40}): {error}"
            problems.append(Problem("malformed object", file, message, known))
            return None
        areas.add([annotation.area])
        number = whole_number(annotation.id)
        in_range = number is not None and 0 <= number <= 1 << 62
        return identifier, number if in_range and number is not None else _NO_ID, annotation.category_id

    rows = read_list(index, "annotations", json_entries.DECODE_OBJECTS, quick, thorough, problems, skim=True)
    rows = rows.without(malformed)
    ours = np.isin(rows.ids, images.ids)
    foreign += int(np.count_nonzero(~ours))
    rows = rows.select(ours)
    rows = _of_things(
        index, rows, {number: table.by_id[new] for number, new in categories.items()}, ids, problems, notes
    )
    if len(rows) < _HARDLY_ANY * things:
        message = f"{len(rows):,} objects for the {things:,} thing segments of {panoptic.file.path}"
        problems.append(Problem("objects of other pictures", file, message, None))
    elif len(rows) < _FEW * things:
        notes.add("thing segments without an object", f"{file} has {len(rows):,} for {things:,}", things - len(rows))
    found = Objects(_without_copies(index, rows, notes), categories, image_ids=ids)
    if foreign:
        found.ignored[OTHER_PICTURE] = foreign
    found.count_areas = areas.stated > 1 and areas.are_placeholders
    if found.count_areas:
        notes.add(f"object areas of at most {areas.largest:g}", "that is no area: pixels are counted", areas.stated)
    return found


def _of_things(
    index: JsonIndex,
    rows: Rows,
    categories: dict[int, Category],
    ids: ImageIds,
    problems: list[Problem],
    notes: Notes,
) -> Rows:
    """Returns the rows of things. Those of stuff are noted, those of unknown categories are problems."""
    things = np.isin(rows.keys[:, 1], id_array({number for number, c in categories.items() if c.isthing}))
    for row in np.flatnonzero(~things):
        identifier, number = int(rows.ids[row]), int(rows.keys[row, 1])
        where = f"annotations[{rows.places[row]}] (image {ids.shown(identifier)})"
        if number in categories:
            detail = f"they are left out, such as {where}, which is {categories[number].name}"
            notes.add("objects of stuff categories", detail)
        else:
            message = f"{where}: category {number} is not in the panoptic categories"
            problems.append(Problem("object of an unknown category", index.file.path, message, identifier))
    return rows.select(things)


def _without_copies(index: JsonIndex, rows: Rows, notes: Notes) -> Rows:
    """Leaves out entries that are there twice. Other annotations with the same id stay: ids are not used."""
    repeated = ~first_of_each(rows.keys[:, 0])
    count = int(np.count_nonzero(repeated))
    if not count:
        return rows
    again = np.isin(rows.keys[:, 0], rows.keys[repeated, 0])
    seen: set[tuple[int, bytes]] = set()
    keep = np.ones(len(rows), bool)
    for row in np.flatnonzero(again):
        begin, end = rows.spans[row].tolist()
        entry = int(rows.ids[row]), index.file.read(begin, end - begin)
        keep[row] = entry not in seen
        seen.add(entry)
    copies = int(np.count_nonzero(~keep))
    if copies:
        notes.add("object annotations are there twice", "the copies are left out", copies)
    if count > copies:
        notes.add("annotation ids are missing or repeated", "they are not used", count - copies)
    return rows.select(keep)
