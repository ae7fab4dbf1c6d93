"""Encoding one annotated picture as one serialised record."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from panoptic_cli.coco.dataset import ObjectAnnotation, Picture
from panoptic_cli.coco.file_names import find_file, near_matches
from panoptic_cli.coco.layout import SplitFiles
from panoptic_cli.errors import listed
from panoptic_cli.images import masks
from panoptic_cli.images.encoded import PictureError, read_file, read_picture_file, size_mismatch
from panoptic_cli.images.limits import TooLargeError
from panoptic_cli.images.mask_files import read_mask
from panoptic_cli.images.masks import CroppedMask, SegmentRuns, is_astray
from panoptic_cli.images.orientation import orientation_of, turned_size
from panoptic_cli.images.pillow import open_picture
from panoptic_cli.records import schema
from panoptic_cli.records.regrouping import DROPPED, Regrouping
from panoptic_cli.records.schema import FeatureValue, encode_example, semantic_lookup

ASTRAY = "astray"  # count of objects that are hardly on segments of their category
SKIPPED, NOTE = "skipped: ", "note: "  # prefixes of such counts


@dataclass(frozen=True)
class _Object:
    label: int
    box: tuple[float, float, float, float]  # xmin, xmax, ymin, ymax in 0..1
    is_crowd: bool
    area: float
    mask: CroppedMask


class PictureEncoder:
    """Encodes the pictures of a split as records.

    Args:
        files: the files of the split.
        regrouping: what to do with segments and objects.
    """

    def __init__(self, files: SplitFiles, regrouping: Regrouping) -> None:
        self._files = files
        self._regrouping = regrouping
        self._table = regrouping.table
        self._semantic = semantic_lookup(regrouping.table)

    def encode(self, picture: Picture) -> tuple[bytes, Counter[str]]:
        """Encodes one picture.

        Returns:
            The serialised tf.train.Example, and counts of what it contains: "objects", "crowds", "segments";
            `ASTRAY`; "skipped: <reason>" for object annotations that are left out; "note: <what>" for changes to the
            picture, its segments or its objects that the user should know about.

        Raises:
            PictureError: the picture or the mask is missing, unreadable, or contradicts the annotations.
        """
        counts: Counter[str] = Counter()
        picture_path = self._find(self._files.image_dir, picture.file_name, "picture", counts)
        picture, runs = self._read_segments(picture, picture_path, counts)
        image = read_picture_file(picture_path, picture.width, picture.height, self._files.exif)
        picture, runs, found = self._regrouping.apply(picture, runs)
        counts.update({(SKIPPED if what == DROPPED else NOTE) + what: n for what, n in found.items()})
        counts.update(NOTE + note for note in image.notes)
        counts["segments"] = len(picture.segments)
        objects = self._objects(picture, runs, counts)
        counts["objects"] = len(objects)
        counts["crowds"] = sum(o.is_crowd for o in objects)
        features: dict[str, FeatureValue] = {
            schema.IMAGE_ENCODED: image.encoded,
            schema.IMAGE_FORMAT: image.format.encode(),
            schema.IMAGE_FILENAME: picture.file_name.encode(),
            schema.IMAGE_SOURCE_ID: str(picture.id).encode(),
            schema.IMAGE_SHA256: hashlib.sha256(image.encoded).hexdigest().encode(),
            schema.IMAGE_HEIGHT: picture.height,
            schema.IMAGE_WIDTH: picture.width,
        }
        features |= self._object_features(objects)
        features |= self._segment_features(picture, runs)
        return encode_example(features), counts

    def _find(self, folder: Path, name: str, what: str, counts: Counter[str]) -> Path:
        path, note = find_file(folder, name)
        if note is not None:
            counts[NOTE + note] += 1
        elif (near := near_matches(path)) and not path.exists():
            raise PictureError(f"{what} missing", f"the {what} {path} does not exist, only {listed(near, 3)}")
        return path

    def _read_segments(self, picture: Picture, picture_path: Path, counts: Counter[str]) -> tuple[Picture, SegmentRuns]:
        """Returns the picture with its size and the segments that have pixels, and its segment map."""
        if not picture.mask_name:
            if not picture.width:
                picture = _with_size(picture, *_shown_size(picture_path))
            size = picture.height, picture.width
            return picture, SegmentRuns(np.zeros(1, np.uint16), np.array([size[0] * size[1]]), size)
        path = self._find(self._files.panoptic_masks, picture.mask_name, "mask", counts)
        content = read_file(path, "mask")
        segment_ids = [segment.id for segment in picture.segments]
        try:
            mask = read_mask(content, segment_ids)
        except TooLargeError as error:
            raise PictureError("mask too large", f"{path}: {error}") from None
        except ValueError as error:
            raise PictureError("unreadable mask", f"{path}: {error}") from None
        height, width = mask.runs.shape
        if not picture.width:
            picture = _with_size(picture, width, height)
        if (width, height) != (picture.width, picture.height):
            raise PictureError("size mismatch", size_mismatch(path, (width, height), (picture.width, picture.height)))
        if mask.strangers:
            kind = "" if mask.note is None else f" ({mask.note})"
            raise PictureError(
                "mask ids not in the JSON",
                f"{path} has segment ids that segments_info lacks: {listed(mask.strangers, 5)}{kind}",
            )
        if mask.note is not None:
            counts[NOTE + mask.note] += 1
        return _with_pixels(picture, mask.runs, counts)

    def _objects(self, picture: Picture, runs: SegmentRuns, counts: Counter[str]) -> list[_Object]:
        objects: list[_Object] = []
        if picture.objects is None:
            places = runs.paint(np.arange(len(picture.segments) + 1, dtype=np.uint16))
            for place, segment in enumerate(picture.segments, start=1):
                if self._table.by_id[segment.category_id].isthing:
                    mask = masks.crop(places == place)
                    assert mask is not None, "every segment has pixels"
                    objects.append(_place(mask, segment.category_id, segment.is_crowd, None, None))
            return objects
        categories = runs.paint(np.array([0, *(segment.category_id for segment in picture.segments)]))
        for annotation in picture.objects:
            segmentation, note = masks.listed_polygons(annotation.segmentation)
            if note is not None:
                counts[NOTE + note] += 1
                annotation = replace(annotation, segmentation=segmentation)
            made = _draw(annotation, picture)
            if short := masks.short_polygons(segmentation):
                counts[NOTE + "polygons of fewer than three points left out"] += short
            if isinstance(made, str):
                counts[SKIPPED + made] += 1
                continue
            if annotation.bbox is not None and _leaves(annotation.bbox, picture):
                counts[NOTE + "boxes cut at the picture's edge"] += 1
            counts[ASTRAY] += bool(picture.segments) and is_astray(made.mask, categories, made.label)
            objects.append(made)
        return objects

    def _object_features(self, objects: list[_Object]) -> dict[str, FeatureValue]:
        boxes = np.array([o.box for o in objects], np.float32).reshape(-1, 4)
        return {
            schema.OBJECT_XMIN: boxes[:, 0],
            schema.OBJECT_XMAX: boxes[:, 1],
            schema.OBJECT_YMIN: boxes[:, 2],
            schema.OBJECT_YMAX: boxes[:, 3],
            schema.OBJECT_LABEL: np.array([o.label for o in objects], np.int64),
            schema.OBJECT_TEXT: [self._table.by_id[o.label].name.encode(errors="replace") for o in objects],
            schema.OBJECT_IS_CROWD: np.array([o.is_crowd for o in objects], np.int64),
            schema.OBJECT_AREA: np.array([o.area for o in objects], np.float32),
            schema.OBJECT_MASK: [o.mask.to_png() for o in objects],
        }

    def _segment_features(self, picture: Picture, runs: SegmentRuns) -> dict[str, FeatureValue]:
        segments = picture.segments
        by_id = self._table.by_id
        category_of = np.array([0, *(s.category_id for s in segments)], np.uint16)
        instance_of = np.array(
            [0, *(p if by_id[s.category_id].isthing else 0 for p, s in enumerate(segments, start=1))],
            np.uint16,
        )
        return {
            schema.SEMANTIC_MASK: _encode_lookup(self._semantic[category_of], runs),
            schema.CATEGORY_MASK: _encode_lookup(category_of, runs),
            schema.INSTANCE_MASK: _encode_lookup(instance_of, runs),
            schema.SEGMENT_MASK: _encode_lookup(np.arange(len(segments) + 1, dtype=np.uint16), runs),
            schema.SEGMENT_ID: np.array([s.id for s in segments], np.int64),
            schema.SEGMENT_CATEGORY: np.array([s.category_id for s in segments], np.int64),
            schema.SEGMENT_IS_CROWD: np.array([s.is_crowd for s in segments], np.int64),
            schema.SEGMENT_AREA: runs.areas(len(segments))[1:],
        }


def _encode_lookup(lookup: np.ndarray, runs: SegmentRuns) -> bytes:
    """Encodes lookup[place] of every pixel, painted with 8 bits if they suffice."""
    return masks.encode_png(runs.paint(lookup.astype(np.uint8) if lookup.max() <= 255 else lookup))


def _with_pixels(picture: Picture, runs: SegmentRuns, counts: Counter[str]) -> tuple[Picture, SegmentRuns]:
    """Leaves out segments without pixels, and counts these and segments with a wrong area."""
    pixels = runs.areas(len(picture.segments))
    found = zip(picture.segments, pixels[1:].tolist(), strict=True)
    if wrong := sum(area > 0 and segment.area not in (None, area) for segment, area in found):
        counts[NOTE + "segments whose area is not their number of pixels: pixels count"] += wrong
    places = np.flatnonzero(pixels[1:])
    if len(places) < len(picture.segments):
        counts[NOTE + "segments without pixels left out"] += len(picture.segments) - len(places)
        picture = replace(picture, segments=tuple(picture.segments[place] for place in places))
        new_places = np.zeros(len(pixels), np.uint16)
        new_places[places + 1] = np.arange(1, len(places) + 1)
        runs = replace(runs, places=new_places[runs.places])
    if not len(places):
        counts[NOTE + "pictures without any segment: they are unlabelled"] += 1
    return picture, runs


def _with_size(picture: Picture, width: int, height: int) -> Picture:
    return replace(picture, width=width, height=height)


def _shown_size(path: Path) -> tuple[int, int]:
    """Returns (width, height) of a picture file, as viewers show it."""
    try:
        with open_picture(read_file(path, "picture")) as opened:
            return turned_size(orientation_of(opened), opened.size)
    except PictureError:
        raise
    except ValueError as error:
        raise PictureError("unreadable picture", f"{path}: {error}") from None


def _draw(annotation: ObjectAnnotation, picture: Picture) -> _Object | str:
    """Returns the object, or the reason why there is nothing to train on."""
    height, width = picture.height, picture.width
    try:
        mask = masks.draw_segmentation(annotation.segmentation, height, width)
    except ValueError as error:
        raise PictureError("malformed segmentation", f"annotation {annotation.id}: {error}") from None
    if mask is None:
        return "empty mask"
    if annotation.bbox is not None:
        x, y, w, h = annotation.bbox
        if w <= 0 or h <= 0:
            return "box without area"
        if min(x + w, width) <= max(x, 0) or min(y + h, height) <= max(y, 0):
            return "box outside the picture"
    return _place(mask, annotation.category_id, annotation.is_crowd, annotation.area, annotation.bbox)


def _leaves(bbox: tuple[float, float, float, float], picture: Picture) -> bool:
    x, y, w, h = bbox
    return x < 0 or y < 0 or x + w > picture.width or y + h > picture.height


def _place(
    mask: CroppedMask,
    label: int,
    is_crowd: bool,
    area: float | None,
    bbox: tuple[float, float, float, float] | None,
) -> _Object:
    """Returns the object; area and box are computed from the pixels if the annotation lacks them."""
    height, width = mask.height, mask.width
    x, y, w, h = mask.box if bbox is None else bbox
    xmin, xmax = max(x, 0.0) / width, min(x + w, width) / width
    ymin, ymax = max(y, 0.0) / height, min(y + h, height) / height
    return _Object(label, (xmin, xmax, ymin, ymax), is_crowd, float(mask.pixels.sum()) if area is None else area, mask)
