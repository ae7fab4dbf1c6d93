"""Checking one picture of a data set: its file, its panoptic PNG and its objects against the annotations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from panoptic_cli.categories import CategoryTable
from panoptic_cli.coco.dataset import ObjectAnnotation, Picture
from panoptic_cli.coco.file_names import find_file, near_matches
from panoptic_cli.coco.layout import SplitFiles
from panoptic_cli.errors import listed
from panoptic_cli.images import masks
from panoptic_cli.images.limits import TooLargeError
from panoptic_cli.images.mask_files import MaskReading, read_mask
from panoptic_cli.images.orientation import Exif, is_turned, turned_size
from panoptic_cli.images.pillow import JPEG_FORMATS
from panoptic_cli.inspection.findings import Findings
from panoptic_cli.inspection.shared_checks import (
    BOX_TOLERANCE,
    STUFF_IN_SEVERAL,
    PictureFacts,
    areas_differ,
    box_misses_mask,
    boxes_differ,
    examine_picture,
)
from panoptic_cli.inspection.statistics import Counts, Spread

_Content = TypeVar("_Content")


@dataclass
class PictureCounts(Counts):
    """Counts of what pictures contain.

    Attributes:
        counts: "pictures", "segments", "things", "stuff", "crowds", "objects", "crowd pixels".
        pixels: number of pixels by category id; 0 is unlabelled.
        segments: number of segments by category id.
        pictures_with: number of pictures by category id.
        widths: widths of the pictures in the JSON.
        heights: heights of the pictures in the JSON.
        separate: number of segments in each picture that are no crowds.
        objects: number of objects in each picture: annotations of the instances JSON, or thing segments without one.
        stuff_areas: pixels of each stuff segment.
        names: how often the JSON names each picture file.
        digests: digest of every readable picture's pixels, by file name.
    """

    counts: Counter[str] = field(default_factory=Counter)
    pixels: Counter[int] = field(default_factory=Counter)
    segments: Counter[int] = field(default_factory=Counter)
    pictures_with: Counter[int] = field(default_factory=Counter)
    widths: Spread = field(default_factory=Spread)
    heights: Spread = field(default_factory=Spread)
    separate: Spread = field(default_factory=Spread)
    objects: Spread = field(default_factory=Spread)
    stuff_areas: Spread = field(default_factory=Spread)
    names: Counter[str] = field(default_factory=Counter)
    digests: dict[str, bytes] = field(default_factory=dict)


@dataclass
class PictureResults:
    """Results of checking pictures: problems and counts.

    Attributes:
        findings: the problems.
        astray: objects that are on no segment of their category, which is a problem only if they are many.
        contents: the counts.
    """

    findings: Findings = field(default_factory=Findings)
    astray: Findings = field(default_factory=Findings)
    contents: PictureCounts = field(default_factory=PictureCounts)


def inspect_picture(files: SplitFiles, table: CategoryTable, picture: Picture, result: PictureResults) -> None:
    """Checks one picture and adds problems and counts to `result`.

    Args:
        files: the files of the split.
        table: the categories.
        picture: the annotated picture; width and height may be 0 and mask_name empty if the JSON lacks them.
        result: receives problems and counts.
    """
    labels = shape = None
    if picture.mask_name:
        path = _find(files.panoptic_masks, picture.mask_name, result.findings)
        labels = _check_mask(path, picture, table, result)
    if labels is not None:
        shape = labels.shape
        if not picture.width:
            picture = replace(picture, width=shape[1], height=shape[0])
    if picture.file_name:
        path = _find(files.image_dir, picture.file_name, result.findings)
        shape_of_file = _check_file(path, picture, files.exif, result)
        shape = shape or shape_of_file
    _count(picture, table, result.contents)
    # Without a file that confirms the size, masks could be larger than memory.
    if shape == (picture.height, picture.width):
        for annotation in picture.objects or ():
            _check_object(annotation, picture, labels, result)


def _find(folder: Path, name: str, findings: Findings) -> Path:
    path, note = find_file(folder, name)
    if note is not None:
        findings.add(note, name, "warning")
    return path


def _read(
    what: str, name: str, path: Path, picture: Picture, findings: Findings, decode: Callable[[bytes], _Content]
) -> _Content | None:
    """Returns what is in a file, None if it cannot be read."""
    try:
        return decode(path.read_bytes())
    except FileNotFoundError:
        near = near_matches(path)
        hint = f", but there is {listed(near, 3)}" if near else ""
        findings.add(f"{what} missing", f"{name} (image {picture.id}){hint}")
    except TooLargeError as error:
        findings.add(f"{what} too large", f"{name}: {error}")
    except (OSError, ValueError) as error:
        cause = error.strerror if isinstance(error, OSError) else None
        findings.add(f"{what} unreadable", f"{name}: {cause or error}")
    return None


def _count(picture: Picture, table: CategoryTable, contents: PictureCounts) -> None:
    contents.counts["pictures"] += 1
    contents.names[picture.file_name] += 1
    if picture.width:
        contents.widths.add(picture.width)
        contents.heights.add(picture.height)
    things = 0
    for segment in picture.segments:
        category = table.by_id.get(segment.category_id)
        isthing = category is not None and category.isthing
        things += isthing
        contents.counts["segments"] += 1
        contents.counts["things" if isthing else "stuff"] += category is not None
        contents.counts["crowds"] += segment.is_crowd
        contents.segments[segment.category_id] += 1
    objects = things if picture.objects is None else len(picture.objects)
    contents.counts["objects"] += objects
    contents.objects.add(objects)
    contents.separate.add(sum(not segment.is_crowd for segment in picture.segments))
    contents.pictures_with.update({segment.category_id for segment in picture.segments})


def _check_file(path: Path, picture: Picture, exif: Exif | None, result: PictureResults) -> tuple[int, int] | None:
    """Returns the (height, width) that annotations of the file must have; None if the file cannot be read."""
    findings, name = result.findings, picture.file_name
    facts = _read("picture", name, path, picture, findings, examine_picture)
    if facts is None:
        return None
    result.contents.digests[name] = facts.digest
    if facts.format not in (*JPEG_FORMATS, "PNG"):
        findings.add("picture neither JPEG nor PNG", f"{name} is {facts.format}", "warning")
    if facts.scaling is not None:
        findings.add("picture of more than 8 bits", f"{name}: {facts.scaling}", "warning")
    if facts.frames:
        findings.add("picture of several frames", name, "warning")
    annotated = (picture.width, picture.height)
    turned = is_turned(facts.orientation, facts.size, annotated, exif)
    if turned is None and picture.width:
        sizes = f"is {facts.size[0]}x{facts.size[1]} pixels, the JSON says {picture.width}x{picture.height}"
        findings.add("picture size differs from the JSON", f"{name} {sizes}")
    elif facts.orientation != 1:
        _check_orientation(name, facts, turned, findings)
    width, height = turned_size(facts.orientation, facts.size) if turned else facts.size
    return height, width


def _check_orientation(name: str, facts: PictureFacts, turned: bool | None, findings: Findings) -> None:
    used = "turned" if turned else "as stored"
    if facts.size == turned_size(facts.orientation, facts.size):
        findings.add("EXIF orientation, both ways fit", f"{name}: used {used}", "warning")
    else:
        findings.add(f"EXIF orientation, picture {used}", name, "warning")


def _check_mask(path: Path, picture: Picture, table: CategoryTable, result: PictureResults) -> np.ndarray | None:
    """Returns the category id of each pixel, [height, width], None if the mask cannot be read."""
    findings, name = result.findings, picture.mask_name
    ids = [segment.id for segment in picture.segments]
    mask = _read("mask", name, path, picture, findings, lambda data: read_mask(data, ids))
    if mask is None:
        return None
    height, width = mask.runs.shape
    if mask.note is not None and mask.strangers:
        findings.add("mask id not in the JSON", f"{name} has {listed(mask.strangers, 3)} ({mask.note})")
        return None
    if mask.note is not None:
        findings.add(mask.note, name, "warning")
    if picture.width and (width, height) != (picture.width, picture.height):
        sizes = f"is {width}x{height} pixels, the JSON says {picture.width}x{picture.height}"
        findings.add("mask size differs from the JSON", f"{name} {sizes}")
    return _check_segments(mask, picture, table, result)


def _check_segments(mask: MaskReading, picture: Picture, table: CategoryTable, result: PictureResults) -> np.ndarray:
    findings, runs = result.findings, mask.runs
    places = runs.paint(np.arange(len(picture.segments) + 1, dtype=np.uint16))
    if mask.strangers:
        findings.add("mask id not in the JSON", f"{picture.mask_name} has pixels of {listed(mask.strangers, 3)}")
    areas = runs.areas(len(picture.segments))
    result.contents.pixels[0] += int(areas[0])
    segments_of = Counter(segment.category_id for segment in picture.segments)
    for stuff in table.stuff:
        if segments_of[stuff.id] > 1:
            message = f"{picture.mask_name}: {segments_of[stuff.id]} segments of {stuff.name}"
            findings.add(STUFF_IN_SEVERAL, message, "warning")
    for place, segment in enumerate(picture.segments, start=1):
        here = f"{picture.mask_name}, segment {segment.id}"
        area = int(areas[place])
        category = table.by_id.get(segment.category_id)
        result.contents.pixels[segment.category_id] += area
        result.contents.counts["crowd pixels"] += area if segment.is_crowd else 0
        if segment.is_crowd and category is not None and not category.isthing:
            findings.add("crowd of stuff", f"{here}: iscrowd is 1, {category.name} is stuff", "warning")
        if area == 0:
            findings.add("segment without pixels", here, "warning")
            continue
        if category is not None and not category.isthing:
            result.contents.stuff_areas.add(area)
        if segment.area is not None and segment.area != area:
            message = f"{here}: {segment.area} in the JSON, {area} pixels"
            findings.add("area differs from the mask", message, "warning")
        if segment.bbox is not None:
            box = masks.box_of_mask(places == place)
            if box is not None and boxes_differ(segment.bbox, box):
                message = f"{here}: {_numbers(segment.bbox)} in the JSON, {_numbers(box)} in pixels"
                findings.add("box differs from the mask", message, "warning")
    if not picture.segments:
        findings.add("picture without any segment", picture.mask_name, "warning")
    return np.array([0, *(segment.category_id for segment in picture.segments)])[places]


def _check_object(
    annotation: ObjectAnnotation, picture: Picture, labels: np.ndarray | None, result: PictureResults
) -> None:
    findings = result.findings
    here = f"{picture.file_name}, annotation {annotation.id}"
    segmentation, note = masks.listed_polygons(annotation.segmentation)
    if note is not None:
        findings.add(note, here, "warning")
    try:
        drawn = masks.draw_segmentation(segmentation, picture.height, picture.width)
    except (ValueError, TypeError) as error:
        findings.add("malformed segmentation", f"{here}: {error}")
        return
    if short := masks.short_polygons(segmentation):
        findings.add("polygon of fewer than three points", f"{here} has {short}", "warning")
    if drawn is None:
        findings.add("empty object mask", f"{here}: its segmentation covers no pixel", "warning")
        return
    if labels is not None and picture.segments and masks.is_astray(drawn, labels, annotation.category_id):
        result.astray.add("object on no segment of its category", here)
    found, area = drawn.box, int(np.count_nonzero(drawn.pixels))
    stated = annotation.area
    if stated is not None and areas_differ(stated, area):
        message = f"{here}: {stated:g} in the JSON, {area} pixels"
        findings.add("object area differs from its mask", message, "warning")
    if annotation.bbox is None:
        return
    x, y, width, height = annotation.bbox
    shown = f"{here}: {_numbers(annotation.bbox)}"
    beyond = max(-x, -y, x + width - picture.width, y + height - picture.height)
    if width <= 0 or height <= 0:
        findings.add("object box without area", shown, "warning")
    elif x >= picture.width or y >= picture.height or x + width <= 0 or y + height <= 0:
        findings.add("object box outside the picture", shown, "warning")
    elif beyond > BOX_TOLERANCE:
        findings.add("object box leaves the picture", f"{shown} by {beyond:g}", "warning")
    elif box_misses_mask(annotation.bbox, found):
        findings.add("object box differs from its mask", f"{shown}, the mask's is {_numbers(found)}", "warning")


def _numbers(box: tuple[float, ...]) -> str:
    return f"[{', '.join(f'{round(v, 2):g}' for v in box)}]"
