"""Reading annotation files for their inspection: as much as possible of what is broken, too.

`read_dataset` leaves out every picture that has a problem, because nothing else could be done with it. An inspection is
to find all problems at once, so it takes up such pictures again with the entries that can be understood.
"""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from panoptic_cli.categories import MAX_CATEGORY_ID, CategoryTable, is_color_or_none
from panoptic_cli.coco import json_entries
from panoptic_cli.coco.dataset import ObjectAnnotation, PanopticDataset, Picture, Segment, read_dataset
from panoptic_cli.coco.json_fields import (
    MAX_SIDE,
    FieldError,
    area_or_none,
    box_or_none,
    integer,
    integer_or_none,
    relative_path,
)
from panoptic_cli.coco.json_index import JsonIndex, index_lists
from panoptic_cli.coco.layout import SplitFiles
from panoptic_cli.errors import DataError
from panoptic_cli.images.panoptic_png import MAX_ID
from panoptic_cli.inspection.findings import Finding, Findings

# What a file that is no JSON of the expected form makes its reader raise, numbers of thousands of digits and brackets
# nested thousands deep included.
_UNREADABLE = (DataError, ValueError, RecursionError)
_BLOCK = 4 << 20  # bytes copied at a time


@dataclass(frozen=True)
class Annotations:
    """What a split's JSON files hold.

    Attributes:
        table: the categories; empty where the panoptic JSON cannot be read at all.
        sound: the pictures without problems in the annotations, read when asked for.
        broken: the others with what can be understood of them: width and height are 0 and names empty where they are
            not known.
    """

    table: CategoryTable
    sound: Sequence[Picture]
    broken: list[Picture]


@contextmanager
def open_annotations(files: SplitFiles, findings: Findings) -> Iterator[Annotations]:
    """Reads a split's annotations and tells every problem in them.

    Args:
        files: the split.
        findings: gets the problems.

    Yields:
        What is there to check, for use within the context.
    """
    with tempfile.TemporaryDirectory(prefix="panoptic-inspect-") as folder:
        dataset = _read(files, Path(folder), findings)
        if dataset is None:
            yield Annotations(CategoryTable(()), (), [])
            return
        # Problems begin with the path, which the report's head line has already.
        paths = (dataset.files.panoptic_annotations, dataset.files.object_annotations)
        for problem in dataset.problems:
            message = problem.message
            for path in paths:
                message = message.removeprefix(f"{path}: ")
            findings.add(problem.kind, message)
        for reason, count in dataset.ignored_objects.items():
            findings.update([Finding(f"object of a {reason}", "warning", count, [str(files.object_annotations)])])
        for category in dataset.table.categories:
            if category.id > MAX_CATEGORY_ID:
                message = f"id {category.id} ({category.name}): records hold ids up to {MAX_CATEGORY_ID}"
                findings.add("category id too large", message)
        yield Annotations(dataset.table, dataset.pictures, list(_salvage(dataset)))


def _read(files: SplitFiles, folder: Path, findings: Findings) -> PanopticDataset | None:
    """Reads what can be read: without an unusable instances JSON, with a mended copy of the category table."""
    try:
        return read_dataset(files)
    except _UNREADABLE:
        pass  # found out below, file by file
    path = files.panoptic_annotations
    try:
        panoptic = index_lists(path, "panoptic annotations", ("images", "annotations", "categories"))
        files = replace(files, panoptic_annotations=folder / path.name)
        _mend(panoptic, files.panoptic_annotations, findings)
        dataset = read_dataset(replace(files, object_annotations=None))
    except _UNREADABLE as error:
        message = _cause(error, path).replace(str(files.panoptic_annotations), str(path))
        findings.add("annotation file unreadable", message)
        return None
    if files.object_annotations is None:
        return dataset
    try:
        return read_dataset(files)
    except _UNREADABLE as error:
        findings.add("annotation file unreadable", _cause(error, files.object_annotations))
        return dataset


def _mend(panoptic: JsonIndex, target: Path, findings: Findings) -> None:
    """Copies a panoptic JSON with a category table that can be used."""
    begin, end = panoptic.lists["categories"]
    entries = json_entries.decode(b"[" + panoptic.file.read(begin, end - begin) + b"]")
    table = json.dumps(list(_mended(entries, findings)))[1:-1]
    with target.open("wb") as stream:
        stream.write(panoptic.file.read(0, begin) + table.encode())
        while block := panoptic.file.read(end, _BLOCK):
            end += len(block)
            stream.write(block)


def _cause(error: Exception, path: Path) -> str:
    if isinstance(error, DataError):
        return " ".join(error.message.split())
    if isinstance(error, RecursionError):
        return f"{path} is nested too deep"
    return f"{path} cannot be understood: {' '.join(str(error).split())[:120]}"


def _mended(entries: list[Any], findings: Findings) -> Iterator[dict[str, Any]]:
    """Yields categories that make a table, and tells what was wrong with the others."""
    seen: set[int] = set()
    for place, entry in enumerate(entries):
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
        where += f" (id {identifier}, {name})"
        if identifier in seen:
            findings.add("duplicate category id", where)
            continue
        seen.add(identifier)
        if name is None:
            findings.add("malformed category", f"{where} has no name")
        if "isthing" not in entry:
            findings.add("isthing missing", where)
        elif entry["isthing"] not in (0, 1):
            findings.add("malformed category", f"{where}: isthing must be 0 or 1, not {entry['isthing']!r:.40}")
        color = entry.get("color")
        if not is_color_or_none(color):
            findings.add("malformed category", f"{where}: color must be three integers of 0..255")
            color = None
        yield {
            "id": identifier,
            "name": str(name if name is not None else f"category {identifier}"),
            "isthing": int(entry.get("isthing", 1) != 0),
            "color": color,
            "supercategory": str(entry.get("supercategory", "")),
        }


def _salvage(dataset: PanopticDataset) -> Iterator[Picture]:
    """Yields the pictures that `read_dataset` left out, with what can be understood of them."""
    files = dataset.files
    wanted = {problem.picture for problem in dataset.problems if problem.picture is not None}
    if not wanted:
        return
    panoptic = index_lists(files.panoptic_annotations, "panoptic annotations", ("images", "annotations"))
    images = _by_picture(panoptic, "images", "id", wanted)
    annotations = _by_picture(panoptic, "annotations", "image_id", wanted)
    objects: dict[int, list[dict[str, Any]]] | None = None
    if files.object_annotations is not None:
        instances = index_lists(files.object_annotations, "object annotations", ("annotations",))
        objects = _by_picture(instances, "annotations", "image_id", wanted)
    for identifier in sorted(images.keys() | annotations.keys()):
        annotation = next(iter(annotations.get(identifier, [])), {})
        for entry in images.get(identifier, [{}]):
            width, height = (_or(0, integer, entry, side, 1, MAX_SIDE) for side in ("width", "height"))
            yield Picture(
                id=identifier,
                file_name=_or("", relative_path, entry, "file_name"),
                width=width if width and height else 0,
                height=height if width and height else 0,
                mask_name=_or("", relative_path, annotation, "file_name"),
                segments=tuple(_segments(annotation.get("segments_info"))),
                objects=None if objects is None else tuple(_objects(objects.get(identifier, []))),
            )


def _by_picture(index: JsonIndex, key: str, id_key: str, wanted: set[int]) -> dict[int, list[dict[str, Any]]]:
    """Returns the entries of some pictures by image id."""
    found: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for _, text, spans in index.regions(key):
        for begin, end in spans.tolist():
            try:
                entry = json_entries.decode(text[begin:end])
            except (ValueError, RecursionError):  # told where its picture is read
                continue
            if isinstance(entry, dict) and integer_or_none(entry.get(id_key)) in wanted:
                found[entry[id_key]].append(entry)
    return dict(found)


def _or(default: Any, read: Any, *arguments: Any) -> Any:
    """Returns what a reader of fields gives, or the default where the field is broken."""
    try:
        return read(*arguments)
    except FieldError:
        return default


def _segments(entries: Any) -> Iterator[Segment]:
    """Yields the segments with a usable id, the first of each; the rest of them as far as it goes."""
    seen: set[int] = set()
    for entry in entries if isinstance(entries, list) else ():
        identifier = _or(0, integer, entry, "id", 1, MAX_ID) if isinstance(entry, dict) else 0
        if identifier and identifier not in seen:
            seen.add(identifier)
            area = _or(None, area_or_none, entry)
            yield Segment(
                id=identifier,
                category_id=_or(0, integer, entry, "category_id"),
                is_crowd=entry.get("iscrowd") in (1, True),
                area=None if area is None else round(area),
                bbox=_or(None, box_or_none, entry),
            )


def _objects(entries: Iterable[dict[str, Any]]) -> Iterator[ObjectAnnotation]:
    for entry in entries:
        if entry.get("segmentation") is not None:
            yield ObjectAnnotation(
                id=_or(0, integer, entry, "id"),
                category_id=_or(0, integer, entry, "category_id"),
                is_crowd=entry.get("iscrowd") in (1, True),
                area=_or(None, area_or_none, entry),
                bbox=_or(None, box_or_none, entry),
                segmentation=entry["segmentation"],
            )
