"""Checking one picture of a data set: its file, its panoptic PNG and its objects against the annotations."""

from __future__ import annotations

import hashlib
import io
import struct
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from panoptic_cli.categories import CategoryTable
from panoptic_cli.coco.dataset import ObjectAnnotation, Picture
from panoptic_cli.coco.layout import SplitFiles
from panoptic_cli.images import masks, panoptic_png, png
from panoptic_cli.images.pictures import TRANSPOSED, orientation_of
from panoptic_cli.inspection.findings import Findings
from panoptic_cli.inspection.statistics import Counts, Spread

_BOX_TOLERANCE = 1.0  # pixels; tools differ in whether a box ends at or behind its last pixel
# COCO's object boxes and areas come from polygons drawn by hand: on coco100 an edge lies up to 19 pixels beside its
# mask's. With half the box beside it, or three times the area, something else than drawing went wrong.
_MIN_BOX_OVERLAP = 0.5
_MAX_AREA_RATIO = 3.0
_SMALL_AREA, _SMALL_SIDE = 64, 8  # pixels; below, rounding alone makes such differences
_JPEG = ("JPEG", "MPO")  # an MPO is a JPEG with further pictures behind the first
_END_OF_JPEG = b"\xff\xd9"
_TAIL = 64 * 1024  # where the end marker must be; some cameras append data behind it
_PNG_KINDS = {0: "greyscale", 2: "RGB", 3: "a palette", 4: "greyscale with alpha", 6: "RGBA"}


@dataclass
class PictureCounts(Counts):
    """What pictures hold.

    Attributes:
        counts: "pictures", "segments", "things", "stuff", "crowds", "objects", "crowd pixels".
        pixels: by category id; 0 is unlabelled.
        segments: number of segments by category id.
        pictures_with: number of pictures by category id.
        widths: of the pictures, as the JSON has them.
        heights: of the pictures.
        objects: of a picture: annotations of the instances JSON, or thing segments without one.
        names: how often the JSON names a picture file.
        digests: of every readable picture's content, by file name.
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
    """What checking pictures gave."""

    findings: Findings = field(default_factory=Findings)
    held: PictureCounts = field(default_factory=PictureCounts)


def inspect_picture(files: SplitFiles, table: CategoryTable, picture: Picture, result: PictureResults) -> None:
    """Checks one picture and adds to `result`.

    Args:
        files: where pictures and masks are.
        table: the categories.
        picture: as annotated; its width, height and mask_name may be 0 and empty where the JSON does not say.
        result: gets problems and counts.
    """
    _count(picture, table, result.held)
    shape = None
    if picture.file_name:
        shape = _check_file(files.image_dir / picture.file_name, picture, result)
    if picture.mask_name:
        shape = _check_mask(files.panoptic_masks / picture.mask_name, picture, table, result) or shape
    # A mask of a size that no file confirms could be larger than any memory.
    if shape == (picture.height, picture.width):
        for annotation in picture.objects or ():
            _check_object(annotation, picture, result.findings)


def _count(picture: Picture, table: CategoryTable, held: PictureCounts) -> None:
    held.counts["pictures"] += 1
    held.names[picture.file_name] += 1
    if picture.width:
        held.widths.add(picture.width)
        held.heights.add(picture.height)
    things = 0
    for segment in picture.segments:
        category = table.by_id.get(segment.category_id)
        isthing = category is not None and category.isthing
        things += isthing
        held.counts["segments"] += 1
        held.counts["things" if isthing else "stuff"] += category is not None
        held.counts["crowds"] += segment.is_crowd
        held.segments[segment.category_id] += 1
    objects = things if picture.objects is None else len(picture.objects)
    held.counts["objects"] += objects
    held.objects.add(objects)
    held.pictures_with.update({segment.category_id for segment in picture.segments})


def check_image(encoded: bytes) -> tuple[str, tuple[int, int], int, bytes]:
    """Decodes a picture to find out whether it can be.

    A JPEG's entropy-coded data are read whole but transformed at an eighth of the size, which costs two thirds of the
    time and is enough to tell damage and to recognise the picture.

    Returns:
        Pillow's name of the format; (width, height) as stored; the EXIF orientation, 1..8; a digest of the pixels.

    Raises:
        ValueError: it cannot be decoded; says why.
    """
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(encoded)) as opened:
            image_format, size = opened.format or "", opened.size
            orientation = orientation_of(opened)
            opened.draft(None, (1, 1))
            opened.load()
            digest = hashlib.sha256(opened.tobytes()).digest()[:16]
    except Exception as error:  # Pillow tells damage by many classes of error
        raise ValueError(_reason(error)) from None
    if image_format == "PNG":
        check_png(encoded)
    elif image_format in _JPEG and encoded.rfind(_END_OF_JPEG, max(0, len(encoded) - _TAIL)) < 0:
        raise ValueError("it is cut short: the end marker is missing")
    return image_format, size, orientation, digest


def check_png(encoded: bytes) -> None:
    """Raises ValueError where a PNG is cut short or a checksum does not match, which decoders may let pass."""
    for _ in png.chunks(encoded):
        pass


def _reason(error: Exception) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return "no known picture format"
    return " ".join(str(error).split())[:120] or type(error).__name__


def _check_file(path: Path, picture: Picture, result: PictureResults) -> tuple[int, int] | None:
    """Returns (height, width) that annotations of the file have, where it can be read."""
    findings, name = result.findings, picture.file_name
    try:
        image_format, size, orientation, digest = check_image(path.read_bytes())
    except FileNotFoundError:
        findings.add("picture missing", f"{name} (image {picture.id})")
        return None
    except (OSError, ValueError) as error:
        findings.add("picture unreadable", f"{name}: {_cause(error)}")
        return None
    result.held.digests[name] = digest
    if image_format not in (*_JPEG, "PNG"):
        findings.add("picture neither JPEG nor PNG", f"{name} is {image_format}")
    annotated = (picture.width, picture.height)
    if picture.width and size[::-1] == annotated != size and orientation in TRANSPOSED:
        message = f"{name}: the annotations fit the turned picture, as which make-tfrecords stores it"
        findings.add("EXIF orientation", message, "warning")
        return size
    if picture.width and size != annotated:
        sizes = f"is {size[0]}x{size[1]} pixels, the JSON says {picture.width}x{picture.height}"
        findings.add("picture size differs from the JSON", f"{name} {sizes}")
    if orientation != 1:
        message = f"{name}: viewers turn it, training takes the pixels as stored, which the annotations fit"
        findings.add("EXIF orientation", message, "warning")
    return size[1], size[0]


def _cause(error: OSError | ValueError) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)


def _check_mask(path: Path, picture: Picture, table: CategoryTable, result: PictureResults) -> tuple[int, int] | None:
    """Returns (height, width) of the mask where it can be read."""
    findings, name = result.findings, picture.mask_name
    try:
        encoded = path.read_bytes()
        if encoded and not encoded.startswith(png.SIGNATURE):
            findings.add("mask not a PNG", f"{name} does not begin like a PNG")
            return None
        depth, kind = struct.unpack_from(">BB", encoded, 24) if len(encoded) > 25 else (8, 2)
        if (depth != 8 and kind != 3) or kind in (0, 4):
            findings.add("mask not RGB", f"{name} is {_PNG_KINDS.get(kind, 'unknown')} of {depth} bits")
            return None
        check_png(encoded)
        ids = panoptic_png.decode(encoded)
    except FileNotFoundError:
        findings.add("mask missing", f"{name} (image {picture.id})")
        return None
    except (OSError, ValueError) as error:
        findings.add("mask unreadable", f"{name}: {_cause(error)}")
        return None
    if kind == 3:
        findings.add("mask with a palette", name, "warning")
    if picture.width and ids.shape != (picture.height, picture.width):
        sizes = f"is {ids.shape[1]}x{ids.shape[0]} pixels, the JSON says {picture.width}x{picture.height}"
        findings.add("mask size differs from the JSON", f"{name} {sizes}")
    _check_segments(ids, picture, table, result)
    return ids.shape[0], ids.shape[1]


def _check_segments(ids: np.ndarray, picture: Picture, table: CategoryTable, result: PictureResults) -> None:
    findings = result.findings
    runs, strangers = masks.segment_runs(ids, [segment.id for segment in picture.segments])
    places = runs.paint(np.arange(len(picture.segments) + 1, dtype=np.uint16))
    if strangers:
        shown = ", ".join(str(i) for i in strangers[:3]) + (f" and {len(strangers) - 3:,} more" * (len(strangers) > 3))
        findings.add("mask id not in the JSON", f"{picture.mask_name} has pixels of {shown}")
    areas = runs.areas(len(picture.segments))
    result.held.pixels[0] += int(areas[0])
    for place, segment in enumerate(picture.segments, start=1):
        here = f"{picture.mask_name}, segment {segment.id}"
        area = int(areas[place])
        category = table.by_id.get(segment.category_id)
        result.held.pixels[segment.category_id] += area
        result.held.counts["crowd pixels"] += area if segment.is_crowd else 0
        if segment.is_crowd and category is not None and not category.isthing:
            findings.add("crowd of stuff", f"{here}: iscrowd is 1, {category.name} is stuff", "warning")
        if area == 0:
            findings.add("segment without pixels", here)
            continue
        if segment.area is not None and segment.area != area:
            findings.add("area differs from the mask", f"{here}: {segment.area} in the JSON, {area} pixels")
        if segment.bbox is not None:
            box = masks.box_of_mask(places == place)
            if box is not None and _apart(segment.bbox, box):
                message = f"{here}: {_numbers(segment.bbox)} in the JSON, {_numbers(box)} in pixels"
                findings.add("box differs from the mask", message, "warning")


def _check_object(annotation: ObjectAnnotation, picture: Picture, findings: Findings) -> None:
    here = f"{picture.file_name}, annotation {annotation.id}"
    try:
        drawn = masks.draw(annotation.segmentation, picture.height, picture.width)
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
    elif beyond > _BOX_TOLERANCE:  # a fraction of a pixel is rounding
        findings.add("object box leaves the picture", f"{shown} by {beyond:g}", "warning")
    elif apart_from_mask(annotation.bbox, found):
        findings.add("object box differs from its mask", f"{shown}, the mask's is {_numbers(found)}", "warning")


def _numbers(box: tuple[float, ...]) -> str:
    return f"[{', '.join(f'{round(v, 2):g}' for v in box)}]"


def _edges(box: tuple[float, ...]) -> tuple[float, float, float, float]:
    return box[0], box[1], box[0] + box[2], box[1] + box[3]


def _apart(first: tuple[float, ...], second: tuple[float, ...]) -> bool:
    """Whether two (x, y, width, height) boxes differ by more than the tolerance at any edge."""
    return any(abs(a - b) > _BOX_TOLERANCE for a, b in zip(_edges(first), _edges(second), strict=True))


def apart_from_mask(box: tuple[float, ...], found: tuple[int, ...]) -> bool:
    """Whether an object's (x, y, width, height) box of some size has little to do with its mask's."""
    if max(found[2:]) <= _SMALL_SIDE:
        return False
    one, other = _edges(box), _edges(found)
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(width, 0.0) * max(height, 0.0)
    return shared < _MIN_BOX_OVERLAP * (box[2] * box[3] + found[2] * found[3] - shared)
