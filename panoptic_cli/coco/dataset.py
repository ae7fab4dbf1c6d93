"""Panoptic data sets in COCO's form: the contents of their JSON files, and problems in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, overload

import numpy as np

from panoptic_cli.categories import CategoryTable
from panoptic_cli.coco import json_entries
from panoptic_cli.coco.json_entries import ObjectAnnotation, SegmentInfo
from panoptic_cli.coco.json_fields import FieldError
from panoptic_cli.coco.json_index import JsonFile, JsonIndex, index_lists
from panoptic_cli.coco.layout import SplitFiles
from panoptic_cli.coco.lists import Problem, Rows, read_images, read_objects, read_panoptic_annotations
from panoptic_cli.errors import DataError, summarize

__all__ = [
    "ObjectAnnotation",
    "PanopticDataset",
    "Picture",
    "Pictures",
    "Problem",
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
        width: width in pixels.
        height: height in pixels.
        mask_name: path of the panoptic PNG, relative to its folder.
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


class Pictures(Sequence[Picture]):
    """The pictures of a split, sorted by id. Each is read from the JSON files on demand.

    Takes 40 bytes a picture and 16 an object. A slice is cheap to make and to send to another process.

    Args:
        panoptic: the panoptic JSON.
        instances: the instances JSON, None without one.
        ids: int64 [n], image ids.
        images: int64 [n, 2], begin and end of each picture's entry of `images` in the file.
        annotations: int64 [n, 2], begin and end of each picture's entry of `annotations`.
        offsets: int64 [n + 1]; picture i has the rows offsets[i] to offsets[i + 1] of `objects`.
        objects: int64 [m, 2], begin and end of the entries of the instances JSON.
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
    ) -> None:
        self._panoptic, self._instances = panoptic, instances
        self.ids = ids
        self._images, self._annotations = images, annotations
        self._offsets, self._objects = offsets, objects

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
        annotation = self._entry(self._panoptic, self._annotations[place])
        try:
            identifier, file_name, width, height = json_entries.check_image(image)
            image_id, mask_name, infos = json_entries.check_annotation(annotation)
            segments = tuple(json_entries.check_segment(info) for info in infos)
        except FieldError:
            raise self._panoptic.changed() from None
        objects = self._read_objects(place)
        if not identifier == image_id == self.ids[place]:
            raise self._panoptic.changed()
        return Picture(identifier, file_name, width, height, mask_name, segments, objects)

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
        )

    def names(self, index: int) -> tuple[str, str]:
        """Returns the file names of a picture and of its mask, without reading its objects."""
        image = self._entry(self._panoptic, self._images[index])
        annotation = self._entry(self._panoptic, self._annotations[index])
        return str(image.get("file_name")), str(annotation.get("file_name"))

    def _read_objects(self, place: int) -> tuple[ObjectAnnotation, ...] | None:
        if self._instances is None:
            return None
        spans = self._objects[self._offsets[place] : self._offsets[place + 1]]
        entries = [self._entry(self._instances, span) for span in spans]
        try:
            return tuple(json_entries.check_object(entry)[1] for entry in entries)
        except FieldError:
            raise self._instances.changed() from None

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
    """

    files: SplitFiles
    table: CategoryTable
    pictures: Pictures
    problems: tuple[Problem, ...]
    ignored_objects: dict[str, int] = field(default_factory=dict)
    digests: tuple[str, ...] = ()


def read_dataset(files: SplitFiles) -> PanopticDataset:
    """Reads and checks a split's JSON files. Pictures and masks are not opened.

    Raises:
        DataError: a file is missing, is not JSON, has no list of images, annotations or categories, or its category
            table is not usable. Smaller problems are in `PanopticDataset.problems`.
    """
    panoptic = index_lists(files.panoptic_annotations, "panoptic annotations", ("images", "annotations", "categories"))
    table = _table(panoptic)
    problems: list[Problem] = []
    images = read_images(panoptic, problems)
    annotations = read_panoptic_annotations(panoptic, table, images, problems)
    ignored: dict[str, int] = {}
    instances: JsonIndex | None = None
    objects = Rows.empty()
    if files.object_annotations is not None:
        instances = index_lists(files.object_annotations, "object annotations", ("annotations",))
        objects = read_objects(instances, table, images, problems, ignored)
    bad = {problem.picture for problem in problems}
    annotations = annotations.sorted_by_id().without(bad)
    images = images.sorted_by_id()
    objects = objects.sorted_by_id()  # keeps the file order within a picture
    ids = annotations.ids
    offsets, rows = _rows_of_pictures(*(np.searchsorted(objects.ids, ids, side) for side in ("left", "right")))
    pictures = Pictures(
        panoptic.file,
        None if instances is None else instances.file,
        ids,
        images.spans[np.searchsorted(images.ids, ids)],
        annotations.spans,
        offsets,
        objects.spans[rows],
    )
    digests = (panoptic.digest, *([] if instances is None else [instances.digest]))
    return PanopticDataset(files, table, pictures, tuple(problems), ignored, digests)


def _table(panoptic: JsonIndex) -> CategoryTable:
    begin, end = panoptic.lists["categories"]
    try:
        entries = json_entries.decode_entry(b"[" + panoptic.file.read(begin, end - begin) + b"]")
    except (ValueError, RecursionError) as error:
        raise panoptic.file.invalid(error) from None
    return CategoryTable.from_list(entries, str(panoptic.file.path))


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
        DataError: there are problems, or no usable pictures; lists the problems.
    """
    problems = [p.message for p in dataset.problems if not (skip_bad_pictures and p.picture is not None)]
    if problems:
        text = problems[0] if len(problems) == 1 else f"{len(problems)} problems:{summarize(problems)}"
        raise DataError(
            f"The annotations of {dataset.files.name} are not usable: {text}.",
            "List all of them with 'panoptic inspect', or skip such pictures with --on-bad-data skip.",
        )
    if not dataset.pictures:
        raise DataError(
            f"{dataset.files.panoptic_annotations} has no usable pictures.",
            "A picture needs entries in images and annotations with the same image id.",
        )
