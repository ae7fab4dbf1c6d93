"""Panoptic data sets in COCO's form: what their JSON files say, and what is wrong with them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from panoptic_cli.categories import CategoryTable
from panoptic_cli.datasets.json_fields import (
    MAX_SIDE,
    FieldError,
    area_or_none,
    box_or_none,
    flag,
    integer,
    integer_or_none,
    relative_path,
)
from panoptic_cli.datasets.layout import SplitFiles
from panoptic_cli.errors import DataError, summarize
from panoptic_cli.files import read_json

_MAX_SEGMENTS = 65534  # places in segments_info are stored with 16 bits
_MAX_SEGMENT_ID = (1 << 24) - 1  # panoptic PNGs have three bytes an id


@dataclass(frozen=True, slots=True)
class Segment:
    """One entry of `segments_info`; area (pixels) and box (x, y, width, height) may be None."""

    id: int
    category_id: int
    is_crowd: bool
    area: int | None
    bbox: tuple[float, float, float, float] | None


@dataclass(frozen=True, slots=True)
class ObjectAnnotation:
    """One annotation of the instances JSON; segmentation in COCO's form, unchecked (see masks.rasterize)."""

    id: int
    category_id: int
    is_crowd: bool
    area: float | None
    bbox: tuple[float, float, float, float] | None
    segmentation: Any


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture with its annotations, paired by id.

    Attributes:
        id: COCO image id.
        file_name: of the picture, relative to the picture folder.
        width: in pixels.
        height: in pixels.
        mask_name: file name of the panoptic PNG, relative to its folder.
        segments: `segments_info` in file order.
        objects: the picture's entries of the instances JSON in file order; None where there is no such file.
    """

    id: int
    file_name: str
    width: int
    height: int
    mask_name: str
    segments: tuple[Segment, ...]
    objects: tuple[ObjectAnnotation, ...] | None


@dataclass(frozen=True)
class Problem:
    """Something wrong in the annotation files.

    Attributes:
        kind: what sort of problem; the same words for all of a sort.
        message: one line naming file and place.
        picture: the image id it concerns, None when it concerns the whole file.
    """

    kind: str
    message: str
    picture: int | None


@dataclass(frozen=True)
class PanopticDataset:
    """A split as its JSON files describe it.

    Attributes:
        files: where everything is.
        table: the categories.
        pictures: the usable pictures, sorted by id.
        problems: everything wrong; pictures that a problem names are not in `pictures`.
        ignored_objects: object annotations left out, counted by reason.
    """

    files: SplitFiles
    table: CategoryTable
    pictures: tuple[Picture, ...]
    problems: tuple[Problem, ...]
    ignored_objects: dict[str, int] = field(default_factory=dict)


def read_dataset(files: SplitFiles) -> PanopticDataset:
    """Reads and checks a split's JSON files. Pictures and masks are not opened.

    Raises:
        DataError: a file is missing, is not JSON, has no list of images, annotations or categories, or its
            category table is not usable. Everything smaller is in `PanopticDataset.problems`.
    """
    panoptic = _read_lists(files.panoptic_annotations, "panoptic annotations", ("images", "annotations", "categories"))
    table = CategoryTable.from_list(panoptic["categories"], str(files.panoptic_annotations))
    problems: list[Problem] = []
    images = _images(panoptic["images"], files.panoptic_annotations, problems)
    annotations = _panoptic_annotations(panoptic["annotations"], files.panoptic_annotations, table, images, problems)
    ignored: Counter[str] = Counter()
    objects: dict[int, list[ObjectAnnotation]] | None = None
    if files.object_annotations is not None:
        value = _read_lists(files.object_annotations, "object annotations", ("annotations",))
        objects = _objects(value["annotations"], files.object_annotations, table, images, problems, ignored)
    bad = {problem.picture for problem in problems}
    pictures = [
        Picture(
            identifier,
            *images[identifier],
            *annotation,
            objects=None if objects is None else tuple(objects.get(identifier, ())),
        )
        for identifier, annotation in annotations.items()
        if identifier not in bad
    ]
    pictures.sort(key=lambda picture: picture.id)
    return PanopticDataset(files, table, tuple(pictures), tuple(problems), dict(ignored))


def require_sound(dataset: PanopticDataset, *, skip_bad_pictures: bool = False) -> None:
    """Raises when the annotation files have problems.

    Args:
        dataset: what read_dataset returned.
        skip_bad_pictures: let pass the problems that concern single pictures.

    Raises:
        DataError: lists the problems.
    """
    problems = [p.message for p in dataset.problems if not (skip_bad_pictures and p.picture is not None)]
    if problems:
        text = problems[0] if len(problems) == 1 else f"{len(problems)} problems:{summarize(problems)}"
        raise DataError(
            f"The annotations of {dataset.files.name} are not usable: {text}",
            "See all of them with 'panoptic inspect', or leave such pictures out with --on-bad-data skip.",
        )
    if not dataset.pictures:
        raise DataError(
            f"{dataset.files.panoptic_annotations} has no usable picture.",
            "It needs entries in images and annotations with the same image ids.",
        )


def _read_lists(path: Path, what: str, keys: tuple[str, ...]) -> dict[str, list[Any]]:
    value = read_json(path, what)
    if not isinstance(value, dict):
        raise DataError(f"The {what} file {path} is not a JSON object.", "Give a file in COCO's form.")
    wrong = [key for key in keys if not isinstance(value.get(key), list)]
    if wrong:
        raise DataError(f"The {what} file {path} has no list of {', '.join(wrong)}.", "Give a file in COCO's form.")
    return {key: value[key] for key in keys}


def _entries(
    entries: list[Any], name: str, path: Path, problems: list[Problem]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields (place, entry) of the entries that are objects."""
    for place, entry in enumerate(entries):
        where = f"{path}: {name}[{place}]"
        if isinstance(entry, dict):
            yield where, entry
        else:
            problems.append(Problem(f"malformed {name}", f"{where} is not an object", None))


def _images(entries: list[Any], path: Path, problems: list[Problem]) -> dict[int, tuple[str, int, int]]:
    """Returns (file name, width, height) by image id."""
    images: dict[int, tuple[str, int, int]] = {}
    for where, entry in _entries(entries, "images", path, problems):
        try:
            identifier = integer(entry, "id")
            sizes = (integer(entry, "width", 1, MAX_SIDE), integer(entry, "height", 1, MAX_SIDE))
            name = relative_path(entry, "file_name")
        except FieldError as error:
            known = integer_or_none(entry.get("id"))
            problems.append(Problem("malformed images", f"{where} (id {known}): {error}", known))
            continue
        if identifier in images:
            problems.append(Problem("duplicate image id", f"{where}: image id {identifier} is there twice", identifier))
            continue
        images[identifier] = (name, *sizes)
    return images


def _panoptic_annotations(
    entries: list[Any],
    path: Path,
    table: CategoryTable,
    images: dict[int, tuple[str, int, int]],
    problems: list[Problem],
) -> dict[int, tuple[str, tuple[Segment, ...]]]:
    """Returns (mask file name, segments) by image id."""
    found: dict[int, tuple[str, tuple[Segment, ...]]] = {}
    named: set[int | None] = set()
    malformed = {problem.picture for problem in problems}  # their annotations are no further problem
    for where, entry in _entries(entries, "annotations", path, problems):
        known = integer_or_none(entry.get("image_id"))
        named.add(known)
        try:
            identifier = integer(entry, "image_id")
            name = relative_path(entry, "file_name")
            infos = entry.get("segments_info")
            if not isinstance(infos, list) or len(infos) > _MAX_SEGMENTS:
                raise FieldError(f"segments_info must be a list of at most {_MAX_SEGMENTS} segments")
        except FieldError as error:
            problems.append(Problem("malformed annotations", f"{where} (image {known}): {error}", known))
            continue
        if identifier in malformed:
            continue
        if identifier not in images:
            message = f"{where}: image id {identifier} is not in images"
            problems.append(Problem("annotation without image", message, identifier))
        elif identifier in found:
            message = f"{where}: image {identifier} is annotated twice"
            problems.append(Problem("duplicate annotation", message, identifier))
        else:
            found[identifier] = (
                name,
                _segments(infos, f"{where} (image {identifier})", identifier, table, problems),
            )
    for identifier in sorted(images.keys() - named):
        message = f"{path}: image {identifier} ({images[identifier][0]}) has no entry in annotations"
        problems.append(Problem("image without annotation", message, identifier))
    return found


def _segments(
    infos: list[Any], where: str, picture: int, table: CategoryTable, problems: list[Problem]
) -> tuple[Segment, ...]:
    segments: list[Segment] = []
    seen: set[int] = set()
    for place, entry in enumerate(infos):
        here = f"{where}, segments_info[{place}]"
        try:
            if not isinstance(entry, dict):
                raise FieldError("it is not an object")
            area = area_or_none(entry)
            segment = Segment(
                id=integer(entry, "id", 1, _MAX_SEGMENT_ID),
                category_id=integer(entry, "category_id"),
                is_crowd=flag(entry, "iscrowd"),
                area=None if area is None else round(area),
                bbox=box_or_none(entry),
            )
        except FieldError as error:
            problems.append(Problem("malformed segment", f"{here}: {error}", picture))
            continue
        if segment.id in seen:
            problems.append(Problem("duplicate segment id", f"{here}: segment id {segment.id} is there twice", picture))
        elif segment.category_id not in table.by_id:
            message = f"{here}: category {segment.category_id} is not in categories"
            problems.append(Problem("unknown category", message, picture))
        else:
            segments.append(segment)
        seen.add(segment.id)
    return tuple(segments)


def _objects(
    entries: list[Any],
    path: Path,
    table: CategoryTable,
    images: dict[int, tuple[str, int, int]],
    problems: list[Problem],
    ignored: Counter[str],
) -> dict[int, list[ObjectAnnotation]]:
    """Returns the object annotations by image id, in file order."""
    objects: dict[int, list[ObjectAnnotation]] = {}
    seen: set[int] = set()
    malformed = {problem.picture for problem in problems} - images.keys()
    for where, entry in _entries(entries, "annotations", path, problems):
        known = integer_or_none(entry.get("image_id"))
        if known in malformed and known is not None:
            continue
        if known is not None and known not in images:
            # Usual for a subset: the panoptic file chooses the pictures, the instances file is the whole
            # set's.
            ignored["picture not in the panoptic annotations"] += 1
            continue
        try:
            annotation = ObjectAnnotation(
                id=integer(entry, "id"),
                category_id=integer(entry, "category_id"),
                is_crowd=flag(entry, "iscrowd"),
                area=area_or_none(entry),
                bbox=box_or_none(entry),
                segmentation=entry.get("segmentation"),
            )
            identifier = integer(entry, "image_id")
            if annotation.segmentation is None:
                raise FieldError("it has no segmentation")
        except FieldError as error:
            problems.append(Problem("malformed object", f"{where} (image {known}): {error}", known))
            continue
        category = table.by_id.get(annotation.category_id)
        if category is None or not category.isthing:
            reason = "is not in the panoptic categories" if category is None else "is stuff, not a thing"
            message = f"{where} (image {identifier}): category {annotation.category_id} {reason}"
            problems.append(Problem("object of no thing category", message, identifier))
        elif annotation.id in seen:
            message = f"{where} (image {identifier}): annotation id {annotation.id} is there twice"
            problems.append(Problem("duplicate annotation id", message, identifier))
        else:
            objects.setdefault(identifier, []).append(annotation)
        seen.add(annotation.id)
    return objects
