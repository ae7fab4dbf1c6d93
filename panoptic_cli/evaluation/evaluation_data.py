"""What an evaluation reads, found and checked whole before the network is loaded; needs no TensorFlow."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from panoptic_cli import console, storage
from panoptic_cli.categories import CategoryTable, read_categories
from panoptic_cli.coco.category_names import map_categories
from panoptic_cli.coco.layout import CATEGORIES_FILE
from panoptic_cli.errors import DataError, listed
from panoptic_cli.evaluation.annotation_file import InstanceAnnotations, read_annotation_file
from panoptic_cli.records.files import find_record_files
from panoptic_cli.records.headers import RecordHeader, read_headers
from panoptic_cli.records.sets import set_problems

_HINT = "Run 'panoptic make-tfrecords' first, or give --eval-data the right pattern."
_SHOWN = 3


@dataclass(frozen=True)
class EvaluationData:
    """The ground truth of an evaluation.

    Attributes:
        pattern: the records.
        limit: only so many pictures; None for all.
        files: the record files.
        images: number of pictures; None if counting them would read all records from a bucket.
        annotations: the objects of the annotation file; None for those of the records.
        categories: {category id in the records: id in the table}; None if they are the same.
    """

    pattern: str
    limit: int | None
    files: list[str]
    images: int | None
    annotations: InstanceAnnotations | None
    categories: dict[int, int] | None


def read_data(
    pattern: str,
    table: CategoryTable,
    annotation_file: str | None = None,
    limit: int | None = None,
    *,
    tell: Callable[[str], None] = console.warn,
) -> EvaluationData:
    """Reads and checks everything but the pictures and their masks.

    Args:
        pattern: the validation records, as for `find_record_files`.
        table: the categories of the model.
        annotation_file: a COCO instances JSON for box and mask AP; None for the objects of the records.
        limit: only so many pictures are evaluated.
        tell: called with each line about what is assumed.

    Raises:
        DataError: records or annotations are missing, belong to other pictures or categories, or cannot be used.
    """
    files = find_record_files(pattern, what="validation records", hint=_HINT)
    for problem in set_problems(pattern):
        tell(problem)
    # Without an annotation file there is little to find, for which reading a bucket twice takes too long.
    skip = annotation_file is None and any(storage.is_remote(path) for path in files)
    pictures = None if skip else read_headers(files, limit)
    _refuse_twice(pictures or [])
    categories = _record_categories(files, table, pictures, tell)
    annotations = None
    if annotation_file is not None:
        annotations = read_annotation_file(Path(annotation_file), table, pictures or [])
        for note in annotations.notes:
            tell(note)
    return EvaluationData(pattern, limit, files, limit if pictures is None else len(pictures), annotations, categories)


def _refuse_twice(pictures: Sequence[RecordHeader]) -> None:
    seen: dict[int | str, RecordHeader] = {}
    twice = [(p, seen[p.image_id]) for p in pictures if seen.setdefault(p.image_id, p) is not p]
    if twice:
        again, first = twice[0]
        ids = listed([header.image_id for header, _ in twice], _SHOWN)
        raise DataError(
            f"The validation records contain {len(twice)} images twice: {ids} "
            f"({again.image_id} is in {first.path} and in {again.path}).",
            "Check that the pattern of --eval-data matches one set of shards.",
        )


def _record_categories(
    files: Sequence[str],
    table: CategoryTable,
    pictures: Sequence[RecordHeader] | None,
    tell: Callable[[str], None],
) -> dict[int, int] | None:
    """Compares the categories beside the records with those of the model.

    Returns:
        {id in the records: id in the table}; None if they are the same, or if there is no table beside the records.
    """
    mappings: dict[str, dict[int, int] | None] = {}
    for folder in dict.fromkeys(map(_folder, files)):
        path = f"{folder}/{CATEGORIES_FILE}"
        mappings[folder] = None
        if not storage.exists(path):
            continue
        theirs = read_categories(path)
        names = {c.id: c.name for c in theirs.categories}
        used = set(names)
        if pictures is not None:
            used &= {i for picture in pictures if _folder(picture.path) == folder for i in picture.categories}
        mappings[folder], note = map_categories(names, used, table, path, "the model")
        if note is not None:
            tell(note)
        _require_kinds(theirs, mappings[folder], used, table, path)
    distinct = list({str(sorted(m.items()) if m else None): m for m in mappings.values()}.values())
    if len(distinct) > 1:
        raise DataError(
            f"The records in {listed(list(mappings), _SHOWN)} number the categories differently.",
            "Evaluate the records of one folder at a time.",
        )
    return distinct[0] if distinct else None


def _folder(path: str) -> str:
    return os.path.dirname(path) or "."


def _require_kinds(
    theirs: CategoryTable, mapping: dict[int, int] | None, used: set[int], table: CategoryTable, path: str
) -> None:
    """Raises a DataError if a category is a thing in one table and stuff in the other."""
    odd = []
    for identifier in sorted(used):
        here = table.by_id[identifier if mapping is None else mapping[identifier]]
        if here.isthing != theirs.by_id[identifier].isthing:
            odd.append(f"{here.name!r} is {'a thing' if here.isthing else 'stuff'} in the model")
    if odd:
        raise DataError(
            f"Things and stuff differ between the model and {path}: {listed(odd, _SHOWN)}, and not there.",
            "Make the records again with the same isthing.",
        )
