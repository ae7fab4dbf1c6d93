"""Panoptic data sets in COCO's form: the contents of their JSON files, and problems in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, overload

import numpy as np

from panoptic_cli.categories import CategoryTable
from panoptic_cli.coco import json_entries
from panoptic_cli.coco.image_ids import ImageIds, id_key
from panoptic_cli.coco.json_entries import ObjectAnnotation, SegmentInfo
from panoptic_cli.coco.json_fields import FieldError
from panoptic_cli.coco.json_index import JsonFile, JsonIndex
from panoptic_cli.coco.json_kinds import INSTANCES, PANOPTIC, index_kind
from panoptic_cli.coco.layout import SplitFiles
from panoptic_cli.coco.lists import UNANNOTATED, Rows, read_images, read_panoptic_annotations
from panoptic_cli.coco.objects import Objects, read_objects
from panoptic_cli.coco.problems import Note, Notes, Problem, describe_problems
from panoptic_cli.coco.tables import read_table
from panoptic_cli.errors import DataError, summarize

__all__ = [
    "ObjectAnnotation",
    "PanopticDataset",
    "Picture",
    "Pictures",
    "SegmentInfo",
    "read_dataset",
    "require_sound",
]


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture with its annotations, paired by id.

    Attributes:
        id: COCO image id.
        file_name: path of the picture, relative to the picture folder.
        width: width in pixels, 0 if the JSON does not say it.
        height: height in pixels, 0 if the JSON does not say it.
        mask_name: path of the panoptic PNG, relative to its folder; empty for a picture without annotation.
        segments: `segments_info` in file order.
        objects: the picture's entries of the instances JSON in file order; None without such a file.
    """

    id: int
    file_name: str
    width: int
    height: int
    mask_name: str
    segments: tuple[SegmentInfo, ...]
    objects: tuple[ObjectAnnotation, ...] | None


@dataclass(frozen=True)
class Reading:
    """What the annotation files mean by their ids and areas.

    Attributes:
        numbered: whether pictures are numbered, because their ids are no numbers.
        added: what is added to the category ids of segments.
        object_categories: the category id for each id of the instances JSON.
        count_areas: whether the areas of objects are to be counted, because the file's say nothing.
    """

    numbered: bool = False
    added: int = 0
    object_categories: Mapping[int, int] = field(default_factory=dict)
    count_areas: bool = False


class Pictures(Sequence[Picture]):
    """The pictures of a split, sorted by id. Each is read from the JSON files on demand.

    Takes 40 bytes a picture and 16 an object. A slice is cheap to make and to send to another process.

    Args:
        panoptic: the panoptic JSON.
        instances: the instances JSON, None without one.
        ids: int64 [n], image ids.
        images: int64 [n, 2], begin and end of each picture's entry of `images` in the file.
        annotations: int64 [n, 2], begin and end of each picture's entry of `annotations`; equal without one.
        offsets: int64 [n + 1]; picture i has the rows offsets[i] to offsets[i + 1] of `objects`.
        objects: int64 [m, 2], begin and end of the entries of the instances JSON.
        reading: what the files mean.
    """

    def __init__(
        self,
        panoptic: JsonFile,
        instances: JsonFile | None,
        ids: np.ndarray,
        images: np.ndarray,
        annotations: np.ndarray,
        offsets: np.ndarray,
        objects: np.ndarray,
        reading: Reading,
    ) -> None:
        self._panoptic, self._instances = panoptic, instances
        self.ids = ids
        self._images, self._annotations = images, annotations
        self._offsets, self._objects = offsets, objects
        self.reading = reading

    def __len__(self) -> int:
        return len(self.ids)

    @overload
    def __getitem__(self, index: int) -> Picture: ...
    @overload
    def __getitem__(self, index: slice) -> Pictures: ...
    def __getitem__(self, index: int | slice) -> Picture | Pictures:
        """Reads a picture; a slice only selects.

        Raises:
            DataError: the JSON file has changed since it was indexed.
        """
        if isinstance(index, slice):
            return self.select(np.arange(len(self))[index])
        place = range(len(self))[index]
        image = self._entry(self._panoptic, self._images[place])
        key, number = id_key(image.get("id")), int(self.ids[place])
        if key is None or (key != str(number) and not self.reading.numbered):
            raise self._panoptic.changed()
        try:
            file_name, width, height = json_entries.check_image(image)
        except FieldError:
            raise self._panoptic.changed() from None
        mask_name, segments = self._read_annotation(place, key)
        return Picture(number, file_name, width, height, mask_name, segments, self._read_objects(place))

    def select(self, chosen: np.ndarray) -> Pictures:
        """Returns the pictures at these places, int64 [n]."""
        offsets, rows = _rows_of_pictures(self._offsets[chosen], self._offsets[chosen + 1])
        return Pictures(
            self._panoptic,
            self._instances,
            self.ids[chosen],
            self._images[chosen],
            self._annotations[chosen],
            offsets,
            self._objects[rows],
            self.reading,
        )

    def names(self, index: int) -> tuple[str, str]:
        """Returns the file names of a picture and of its mask, without reading its objects."""
        image = self._entry(self._panoptic, self._images[index])
        annotation = self._annotation(index)
        return str(image.get("file_name")), "" if annotation is None else str(annotation.get("file_name"))

    def _annotation(self, place: int) -> dict[str, Any] | None:
        begin, end = self._annotations[place].tolist()
        return self._entry(self._panoptic, self._annotations[place]) if begin < end else None

    def _read_annotation(self, place: int, image_key: str) -> tuple[str, tuple[SegmentInfo, ...]]:
        """Returns the mask's file name and the segments of the picture with this id."""
        annotation = self._annotation(place)
        if annotation is None:
            return "", ()
        if id_key(annotation.get("image_id")) != image_key:
            raise self._panoptic.changed()
        try:
            mask_name, infos = json_entries.check_annotation(annotation)
            segments = tuple(json_entries.check_segment(info) for info in infos)
        except FieldError:
            raise self._panoptic.changed() from None
        added = self.reading.added
        return mask_name, tuple(replace(s, category_id=s.category_id + added) for s in segments) if added else segments

    def _read_objects(self, place: int) -> tuple[ObjectAnnotation, ...] | None:
        if self._instances is None:
            return None
        spans = self._objects[self._offsets[place] : self._offsets[place + 1]]
        entries = [self._entry(self._instances, span) for span in spans]
        try:
            found = [json_entries.check_object(entry) for entry in entries]
            ids = [self.reading.object_categories[annotation.category_id] for annotation in found]
        except (FieldError, KeyError):
            raise self._instances.changed() from None
        count = self.reading.count_areas
        pairs = zip(found, ids, strict=True)
        return tuple(replace(one, category_id=i, area=None if count else one.area) for one, i in pairs)

    @staticmethod
    def _entry(file: JsonFile, span: np.ndarray) -> dict[str, Any]:
        value = json_entries.read_entry(file, *span.tolist())
        if not isinstance(value, dict):
            raise file.changed()
        return value


@dataclass(frozen=True)
class PanopticDataset:
    """A split as its JSON files describe it.

    Attributes:
        files: the files of the split.
        table: the categories.
        pictures: the usable pictures, sorted by id.
        problems: all problems; pictures with a problem are not in `pictures`.
        ignored_objects: number of ignored object annotations by reason.
        digests: digests of the bytes of the JSON files.
        notes: what was assumed.
        image_ids: numbers the pictures.
        object_image_ids: numbers them by the image ids of the instances JSON.
    """

    files: SplitFiles
    table: CategoryTable
    pictures: Pictures
    problems: tuple[Problem, ...]
    ignored_objects: dict[str, int] = field(default_factory=dict)
    digests: tuple[str, ...] = ()
    notes: tuple[Note, ...] = ()
    image_ids: ImageIds = field(default_factory=ImageIds)
    object_image_ids: ImageIds = field(default_factory=ImageIds)


def read_dataset(files: SplitFiles, keep_unannotated: bool = False) -> PanopticDataset:
    """Reads and checks a split's JSON files. Pictures and masks are not opened.

    Args:
        files: the files of the split.
        keep_unannotated: keep pictures without annotation, as pictures without segments.

    Raises:
        DataError: a file is missing, is not JSON, is of another kind, has no list of images, annotations or categories,
            or its category table is not usable. Smaller problems are in `PanopticDataset.problems`.
    """
    keys = ("images", "annotations", "categories")
    panoptic = index_kind(files.panoptic_annotations, "panoptic annotations", keys, PANOPTIC)
    notes = Notes()
    table, added = read_table(panoptic, notes)
    problems: list[Problem] = []
    images, image_ids = read_images(panoptic, problems, notes)
    known = frozenset(category.id - added for category in table.categories)
    annotations, segments = read_panoptic_annotations(panoptic, known, images, image_ids, problems, notes)
    if keep_unannotated:
        annotations = annotations.joined(_unannotated(problems, notes))
    objects = Objects(Rows.empty())
    instances: JsonIndex | None = None
    if files.object_annotations is not None:
        instances = index_kind(files.object_annotations, "object annotations", ("annotations",), INSTANCES)
        things = sum(segments[category.id - added] for category in table.things)
        objects = read_objects(instances, panoptic, table, added, images, image_ids, things, problems, notes)
    bad = {problem.picture for problem in problems}
    annotations = annotations.sorted_by_id().without(bad)
    images = images.sorted_by_id()
    rows = objects.rows.sorted_by_id()  # keeps the file order within a picture
    ids = annotations.ids
    offsets, chosen = _rows_of_pictures(*(np.searchsorted(rows.ids, ids, side) for side in ("left", "right")))
    pictures = Pictures(
        panoptic.file,
        None if instances is None else instances.file,
        ids,
        images.spans[np.searchsorted(images.ids, ids)],
        annotations.spans,
        offsets,
        rows.spans[chosen],
        Reading(image_ids.renumbered, added, objects.categories, objects.count_areas),
    )
    digests = (panoptic.digest, *([] if instances is None else [instances.digest]))
    return PanopticDataset(
        files,
        table,
        pictures,
        tuple(problems),
        objects.ignored,
        digests,
        notes.all(),
        image_ids,
        objects.image_ids,
    )


def _unannotated(problems: list[Problem], notes: Notes) -> Rows:
    """Takes the pictures without annotation out of the problems and returns rows of no entry for them."""
    found = [problem for problem in problems if problem.kind == UNANNOTATED]
    problems[:] = [problem for problem in problems if problem.kind != UNANNOTATED]
    if found:
        notes.add("pictures without annotation", "they are kept as unlabelled", len(found))
    return Rows.without_entries([problem.picture for problem in found if problem.picture is not None])


def _rows_of_pictures(begins: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Concatenates the rows begins[i] to ends[i] of all pictures.

    Returns:
        int64 [n + 1], the offset of each picture in the second array; int64 [m], the rows.
    """
    counts = ends - begins
    offsets = np.concatenate([[0], np.cumsum(counts)])
    return offsets, np.repeat(begins - offsets[:-1], counts) + np.arange(offsets[-1])


def require_sound(dataset: PanopticDataset, *, skip_bad_pictures: bool = False) -> None:
    """Raises an error if the annotation files have problems.

    Args:
        dataset: the data set to check.
        skip_bad_pictures: accept problems that concern single pictures.

    Raises:
        DataError: there are problems, or no usable pictures; lists the problems by kind.
    """
    blocking = [p for p in dataset.problems if not (skip_bad_pictures and p.picture is not None)]
    if blocking:
        raise DataError(
            f"The annotations of {dataset.files.name} are not usable: {_listed(blocking)}.", _hint(blocking)
        )
    if not dataset.pictures and dataset.problems:
        text = f"No picture of {dataset.files.name} is usable: {_listed(dataset.problems)}."
        raise DataError(text, "List all problems with 'panoptic inspect'.")
    if not dataset.pictures:
        raise DataError(
            f"{dataset.files.panoptic_annotations} has no pictures.",
            "A picture needs entries in images and annotations with the same image id.",
        )


def _listed(problems: Sequence[Problem]) -> str:
    lines = describe_problems(problems)
    return lines[0] if len(lines) == 1 else f"{len(problems)} problems:{summarize(lines, len(lines))}"


def _hint(problems: Sequence[Problem]) -> str:
    """Says what to do about problems; an option that was given already concerns none of them."""
    hint = "List all of them with 'panoptic inspect'"
    kinds = {problem.kind for problem in problems if problem.picture is not None}
    if kinds:
        hint += ", or skip such pictures with --on-bad-data skip"
    if UNANNOTATED in kinds:
        hint += "; --on-bad-data void keeps pictures without annotation as unlabelled"
    return hint + "."
