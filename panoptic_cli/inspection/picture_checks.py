"""Checking one picture of a data set: its file, its panoptic PNG and its objects against the annotations."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from panoptic_cli.categories import CategoryTable
from panoptic_cli.coco.dataset import ObjectAnnotation, Picture
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
    PictureFacts,
    box_misses_mask,
    boxes_differ,
    examine_picture,
)
from panoptic_cli.inspection.statistics import Counts, Spread

# COCO's object areas come from polygons drawn by hand. If an area is three times the mask's, the cause is not imprecise
# drawing.
_MAX_AREA_RATIO = 3.0
_SMALL_AREA = 64  # pixels; in smaller objects, rounding alone makes such differences


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
        objects: number of objects in each picture: annotations of the instances JSON, or thing segments without one.
        names: how often the JSON names each picture file.
        digests: digest of every readable picture's pixels, by file name.
    """

    counts: Counter[str] = field(default_factory=Counter)
    pixels: Counter[int] = field(default_factory=Counter)
    segments: Counter[int] = field(default_factory=Counter)
    pictures_with: Counter[int] = field(default_factory=Counter)
    widths: Spread = field(default_factory=Spread)
    heights: Spread = field(default_factory=Spread)
    objects: Spread = field(default_factory=Spread)
    names: Counter[str] = field(default_factory=Counter)
    digests: dict[str, bytes] = field(default_factory=dict)


@dataclass
class PictureResults:
    """Results of checking pictures: problems and counts."""

    findings: Findings = field(default_factory=Findings)
    contents: PictureCounts = field(default_factory=PictureCounts)


def inspect_picture(files: SplitFiles, table: CategoryTable, picture: Picture, result: PictureResults) -> None:
    """Checks one picture and adds problems and counts to `result`.

    Args:
        files: the files of the split.
        table: the categories.
        picture: the annotated picture; width and height may be 0 and mask_name empty if the JSON lacks them.
        result: receives problems and counts.
    """
    _count(picture, table, result.contents)
    shape = None
    if picture.file_name:
        shape = _check_file(files.image_dir / picture.file_name, picture, files.exif, result)
    if picture.mask_name:
        shape = _check_mask(files.panoptic_masks / picture.mask_name, picture, table, result) or shape
    # Without a file that confirms the size, masks could be larger than memory.
    if shape == (picture.height, picture.width):
        for annotation in picture.objects or ():
            _check_object(annotation, picture, result.findings)


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
    contents.pictures_with.update({segment.category_id for segment in picture.segments})


def _check_file(path: Path, picture: Picture, exif: Exif | None, result: PictureResults) -> tuple[int, int] | None:
    """Returns the (height, width) that annotations of the file must have; None if the file cannot be read."""
    findings, name = result.findings, picture.file_name
    try:
        facts = examine_picture(path.read_bytes())
    except FileNotFoundError:
        findings.add("picture missing", f"{name} (image {picture.id})")
        return None
    except TooLargeError as error:
        findings.add("picture too large", f"{name}: {error}")
        return None
    except (OSError, ValueError) as error:
        findings.add("picture unreadable", f"{name}: {_cause(error)}")
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


def _cause(error: OSError | ValueError) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)


def _check_mask(path: Path, picture: Picture, table: CategoryTable, result: PictureResults) -> tuple[int, int] | None:
    """Returns (height, width) of the mask, None if it cannot be read."""
    findings, name = result.findings, picture.mask_name
    try:
        mask = read_mask(path.read_bytes(), [segment.id for segment in picture.segments])
    except FileNotFoundError:
        findings.add("mask missing", f"{name} (image {picture.id})")
        return None
    except TooLargeError as error:
        findings.add("mask too large", f"{name}: {error}")
        return None
    except (OSError, ValueError) as error:
        findings.add("mask unreadable", f"{name}: {_cause(error)}")
        return None
    height, width = mask.runs.shape
    if mask.note is not None and mask.strangers:
        findings.add("mask id not in the JSON", f"{name} has {listed(mask.strangers, 3)} ({mask.note})")
        return height, width
    if mask.note is not None:
        findings.add(mask.note, name, "warning")
    if picture.width and (width, height) != (picture.width, picture.height):
        sizes = f"is {width}x{height} pixels, the JSON says {picture.width}x{picture.height}"
        findings.add("mask size differs from the JSON", f"{name} {sizes}")
    _check_segments(mask, picture, table, result)
    return height, width


def _check_segments(mask: MaskReading, picture: Picture, table: CategoryTable, result: PictureResults) -> None:
    findings, runs = result.findings, mask.runs
    places = runs.paint(np.arange(len(picture.segments) + 1, dtype=np.uint16))
    if mask.strangers:
        findings.add("mask id not in the JSON", f"{picture.mask_name} has pixels of {listed(mask.strangers, 3)}")
    areas = runs.areas(len(picture.segments))
    result.contents.pixels[0] += int(areas[0])
    for place, segment in enumerate(picture.segments, start=1):
        here = f"{picture.mask_name}, segment {segment.id}"
        area = int(areas[place])
        category = table.by_id.get(segment.category_id)
        result.contents.pixels[segment.category_id] += area
        result.contents.counts["crowd pixels"] += area if segment.is_crowd else 0
        if segment.is_crowd and category is not None and not category.isthing:
            findings.add("crowd of stuff", f"{here}: iscrowd is 1, {category.name} is stuff", "warning")
        if area == 0:
            findings.add("segment without pixels", here)
            continue
        if segment.area is not None and segment.area != area:
            findings.add("area differs from the mask", f"{here}: {segment.area} in the JSON, {area} pixels")
        if segment.bbox is not None:
            box = masks.box_of_mask(places == place)
            if box is not None and boxes_differ(segment.bbox, box):
                message = f"{here}: {_numbers(segment.bbox)} in the JSON, {_numbers(box)} in pixels"
                findings.add("box differs from the mask", message, "warning")


def _check_object(annotation: ObjectAnnotation, picture: Picture, findings: Findings) -> None:
    here = f"{picture.file_name}, annotation {annotation.id}"
    try:
        drawn = masks.draw_segmentation(annotation.segmentation, picture.height, picture.width)
    except (ValueError, TypeError) as error:
        findings.add("malformed segmentation", f"{here}: {error}")
        return
    if drawn is None:
        findings.add("empty object mask", f"{here}: its segmentation covers no pixel", "warning")
        return
    found, area = drawn.box, int(np.count_nonzero(drawn.pixels))
    stated = annotation.area
    if (
        stated is not None
        and max(stated, area) > _SMALL_AREA
        and not (area <= _MAX_AREA_RATIO * stated and stated <= _MAX_AREA_RATIO * area)
    ):
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
