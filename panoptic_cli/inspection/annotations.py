"""Reading annotation files for an inspection, including as much as possible of what is broken.

`read_dataset` leaves out every picture that has a problem. An inspection must find all problems at once, so it also
checks these pictures, with the entries that can be understood.
"""

from __future__ import annotations

import json
import secrets
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from panoptic_cli.categories import MAX_CATEGORY_ID, CategoryTable, color_or_none, flag_or_none
from panoptic_cli.coco import json_entries
from panoptic_cli.coco.dataset import ObjectAnnotation, PanopticDataset, Picture, SegmentInfo, read_dataset
from panoptic_cli.coco.image_ids import ImageIds
from panoptic_cli.coco.json_fields import FieldError, area_or_none, box_or_none, integer, relative_path, size_or_none
from panoptic_cli.coco.json_index import JsonIndex, index_lists
from panoptic_cli.coco.json_kinds import PANOPTIC, OtherKindError, index_kind
from panoptic_cli.coco.layout import SplitFiles
from panoptic_cli.coco.tables import added_to_ids, decode_list, raised
from panoptic_cli.errors import DataError, one_line
from panoptic_cli.files import remove
from panoptic_cli.images.panoptic_png import MAX_ID
from panoptic_cli.inspection.findings import Finding, Findings

# Readers raise these for a file that is not JSON of the expected form. The last two come from numbers with thousands of
# digits and from brackets nested thousands deep.
_UNREADABLE = (DataError, ValueError, RecursionError)
_BLOCK = 4 << 20  # bytes copied at a time


@dataclass(frozen=True)
class Annotations:
    """The contents of a split's JSON files.

    Attributes:
        table: the categories; empty if the panoptic JSON cannot be read.
        sound: pictures without problems in the annotations, read on demand.
        broken: the other pictures with the fields that can be understood; unknown sizes are 0, unknown names empty.
    """

    table: CategoryTable
    sound: Sequence[Picture]
    broken: list[Picture]


@contextmanager
def open_annotations(files: SplitFiles, findings: Findings) -> Iterator[Annotations]:
    """Reads a split's annotations and reports every problem in them.

    Args:
        files: the files of the split.
        findings: receives the problems.

    Yields:
        The annotations to check; they are valid inside the context.
    """
    # The name is known before the folder exists, so a signal cannot leave it behind.
    folder = Path(tempfile.gettempdir(), f"panoptic-inspect-{secrets.token_hex(8)}")
    try:
        folder.mkdir(mode=0o700)
        dataset = _read(files, folder, findings)
        if dataset is None:
            yield Annotations(CategoryTable(()), (), [])
            return
        for problem in dataset.problems:  # the head line of the report has the path
            findings.add(
                problem.kind, problem.message.replace(str(dataset.files.panoptic_annotations), "the panoptic JSON")
            )
        findings.update(Finding(note.kind, "warning", note.count, detail=note.detail) for note in dataset.notes)
        for reason, count in dataset.ignored_objects.items():
            findings.update([Finding(f"object of a {reason}", "warning", count, [str(files.object_annotations)])])
        for category in dataset.table.categories:
            if category.id > MAX_CATEGORY_ID:
                message = f"id {category.id} ({category.name}): records allow ids up to {MAX_CATEGORY_ID}"
                findings.add("category id too large", message)
        yield Annotations(dataset.table, dataset.pictures, list(_salvage(dataset)))
    finally:
        remove(folder)


def _read(files: SplitFiles, folder: Path, findings: Findings) -> PanopticDataset | None:
    """Reads what is readable: without an unusable instances JSON, with a repaired copy of the category table."""
    try:
        return read_dataset(files)
    except _UNREADABLE:
        pass  # the code below finds the cause, file by file
    path = files.panoptic_annotations
    try:
        keys = ("images", "annotations", "categories")
        panoptic = index_kind(path, "panoptic annotations", keys, PANOPTIC)
        files = replace(files, panoptic_annotations=folder / path.name)
        _repair(panoptic, files.panoptic_annotations, findings)
        dataset = read_dataset(replace(files, object_annotations=None))
    except _UNREADABLE as error:
        message = _cause(error, path).replace(str(files.panoptic_annotations), str(path))
        findings.add(_kind_of(error), message)
        return None
    if files.object_annotations is None:
        return dataset
    try:
        return read_dataset(files)
    except _UNREADABLE as error:
        findings.add(_kind_of(error), _cause(error, files.object_annotations))
        return dataset


def _repair(panoptic: JsonIndex, target: Path, findings: Findings) -> None:
    """Copies a panoptic JSON with a usable category table."""
    begin, end = panoptic.lists["categories"]
    table = json.dumps(list(_repaired(decode_list(panoptic, "categories"), findings)))[1:-1]
    with target.open("wb") as stream:
        stream.write(panoptic.file.read(0, begin) + table.encode())
        while block := panoptic.file.read(end, _BLOCK):
            end += len(block)
            stream.write(block)


def _kind_of(error: Exception) -> str:
    return "annotation file of another kind" if isinstance(error, OtherKindError) else "annotation file unreadable"


def _cause(error: Exception, path: Path) -> str:
    if isinstance(error, DataError):
        return one_line(error.message)
    if isinstance(error, RecursionError):
        return f"{path} is nested too deeply"
    return f"{path} cannot be understood: {one_line(error, 120)}"


def _repaired(entries: list[Any], findings: Findings) -> Iterator[dict[str, Any]]:
    """Yields categories that form a valid table, and reports what is wrong with the entries."""
    seen: set[int] = set()
    added = added_to_ids(entries)
    for place, entry in enumerate(raised(entries, added)):
        where = f"categories[{place}]"
        if not isinstance(entry, dict):
            findings.add("malformed category", f"{where} is not an object")
            continue
        name = entry.get("name")
        try:
            identifier = integer(entry, "id", 1)
        except FieldError as error:
            findings.add("malformed category", f"{where} ({name}): {error}")
            continue
        identifier -= added
        where += f" (id {identifier}, {name})"
        if identifier in seen:
            findings.add("duplicate category id", where)
            continue
        seen.add(identifier)
        if name is None:
            findings.add("malformed category", f"{where} has no name")
        if "isthing" not in entry:
            findings.add("isthing missing", where)
        elif flag_or_none(entry["isthing"]) is None:
            findings.add("malformed category", f"{where}: isthing must be 0 or 1, not {entry['isthing']!r:.40}")
        color = None
        try:
            color = color_or_none(entry.get("color"))
        except ValueError as error:
            findings.add("malformed category", f"{where}: {error}")
        yield {
            "id": identifier,
            "name": str(name if name is not None else f"category {identifier}"),
            "isthing": int(flag_or_none(entry.get("isthing")) is not False),
            "color": color,
            "supercategory": str(entry.get("supercategory", "")),
        }


def _salvage(dataset: PanopticDataset) -> Iterator[Picture]:
    """Yields the pictures that `read_dataset` left out, with the fields that can be understood."""
    files = dataset.files
    ids = {problem.picture for problem in dataset.problems if problem.picture is not None}
    if not ids:
        return
    panoptic = index_lists(files.panoptic_annotations, "panoptic annotations", ("images", "annotations"))
    numbers = dataset.image_ids
    images = _by_picture(panoptic, "images", "id", ids, numbers)
    annotations = _by_picture(panoptic, "annotations", "image_id", ids, numbers)
    objects: dict[int, list[dict[str, Any]]] | None = None
    if files.object_annotations is not None:
        instances = index_lists(files.object_annotations, "object annotations", ("annotations",))
        objects = _by_picture(instances, "annotations", "image_id", ids, dataset.object_image_ids)
    for identifier in sorted(images.keys() | annotations.keys()):
        annotation = next(iter(annotations.get(identifier, [])), {})
        for entry in images.get(identifier, [{}]):
            width, height = _or(None, size_or_none, entry) or (0, 0)
            yield Picture(
                id=identifier,
                file_name=_or("", relative_path, entry, "file_name"),
                width=width,
                height=height,
                mask_name=_or("", relative_path, annotation, "file_name"),
                segments=tuple(_segments(annotation.get("segments_info"), dataset.pictures.reading.added)),
                objects=None if objects is None else tuple(_objects(objects.get(identifier, []), dataset)),
            )


def _by_picture(
    index: JsonIndex, key: str, id_key: str, ids: set[int], numbers: ImageIds
) -> dict[int, list[dict[str, Any]]]:
    """Returns the entries of the pictures with these ids, by image id."""
    found: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for _, text, spans in index.regions(key):
        for begin, end in spans.tolist():
            try:
                entry = json_entries.decode_entry(text[begin:end])
            except (ValueError, RecursionError):  # reported where its picture is read
                continue
            number = numbers.number(entry.get(id_key)) if isinstance(entry, dict) else None
            if number in ids:
                found[number].append(entry)
    return dict(found)


def _or(default: Any, read: Any, *arguments: Any) -> Any:
    """Returns the result of a field reader, or the default if the field is broken."""
    try:
        return read(*arguments)
    except FieldError:
        return default


def _segments(entries: Any, added: int) -> Iterator[SegmentInfo]:
    """Yields the first segment of each usable id; broken fields get defaults."""
    seen: set[int] = set()
    for entry in entries if isinstance(entries, list) else ():
        identifier = _or(0, integer, entry, "id", 1, MAX_ID) if isinstance(entry, dict) else 0
        if identifier and identifier not in seen:
            seen.add(identifier)
            area = _or(None, area_or_none, entry)
            yield SegmentInfo(
                id=identifier,
                category_id=_or(-added, integer, entry, "category_id") + added,
                is_crowd=flag_or_none(entry.get("iscrowd")) is True,
                area=None if area is None else round(area),
                bbox=_or(None, box_or_none, entry),
            )


def _objects(entries: Iterable[dict[str, Any]], dataset: PanopticDataset) -> Iterator[ObjectAnnotation]:
    reading = dataset.pictures.reading
    for entry in entries:
        if entry.get("segmentation") is not None:
            category = _or(0, integer, entry, "category_id")
            yield ObjectAnnotation(
                id=entry.get("id"),
                category_id=reading.object_categories.get(category, category),
                is_crowd=flag_or_none(entry.get("iscrowd")) is True,
                area=None if reading.count_areas else _or(None, area_or_none, entry),
                bbox=_or(None, box_or_none, entry),
                segmentation=entry["segmentation"],
            )
