"""From one annotated picture to one serialized record."""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from panoptic_cli.categories import CategoryTable
from panoptic_cli.datasets import masks, records
from panoptic_cli.datasets.coco import ObjectAnnotation, Picture
from panoptic_cli.datasets.layout import SplitFiles
from panoptic_cli.datasets.records import FeatureValue, encode_example, semantic_lookup

_END_OF_FILE = {"jpeg": b"\xff\xd9", "png": b"IEND"}
_TAIL = 64 * 1024  # where the end marker must be; some cameras append data behind it


class PictureError(ValueError):
    """A picture that cannot be converted.

    Attributes:
        reason: what sort of defect; the same words for all of a sort.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return self.detail


@dataclass(frozen=True)
class _Object:
    label: int
    box: tuple[float, float, float, float]  # xmin, xmax, ymin, ymax in 0..1
    is_crowd: bool
    area: float
    mask: np.ndarray


class PictureEncoder:
    """Makes records of the pictures of a split.

    Args:
        files: where pictures and masks are.
        table: the categories.
    """

    def __init__(self, files: SplitFiles, table: CategoryTable) -> None:
        self._files = files
        self._table = table
        self._semantic = semantic_lookup(table)

    def encode(self, picture: Picture) -> tuple[bytes, Counter[str]]:
        """Makes the record of one picture.

        Returns:
            The serialized tf.train.Example, and what it holds: "objects", "crowds", "segments", and
            "skipped: <reason>" for the object annotations that have no pixels.

        Raises:
            PictureError: picture or mask is missing, unreadable or at odds with the annotations.
        """
        encoded, image_format = self._read_picture(picture)
        places = self._read_segments(picture)
        counts: Counter[str] = Counter(segments=len(picture.segments))
        objects = self._objects(picture, places, counts)
        counts["objects"] = len(objects)
        counts["crowds"] = sum(o.is_crowd for o in objects)
        features: dict[str, FeatureValue] = {
            records.IMAGE_ENCODED: encoded,
            records.IMAGE_FORMAT: image_format.encode(),
            records.IMAGE_FILENAME: picture.file_name.encode(),
            records.IMAGE_SOURCE_ID: str(picture.id).encode(),
            records.IMAGE_SHA256: hashlib.sha256(encoded).hexdigest().encode(),
            records.IMAGE_HEIGHT: picture.height,
            records.IMAGE_WIDTH: picture.width,
        }
        features |= self._object_features(objects)
        features |= self._segment_features(picture, places)
        return encode_example(features), counts

    def _read_picture(self, picture: Picture) -> tuple[bytes, str]:
        path = self._files.image_dir / picture.file_name
        encoded = _read(path, "picture")
        try:
            with Image.open(io.BytesIO(encoded)) as opened:
                image_format, size = (opened.format or "").lower(), opened.size
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
            raise PictureError("unreadable picture", f"{path} is not a picture") from None
        if image_format == "mpo":  # a JPEG with further pictures behind the first
            image_format = "jpeg"
        if image_format not in _END_OF_FILE:
            raise PictureError("unknown picture format", f"{path} is {image_format}, neither JPEG nor PNG")
        if encoded.rfind(_END_OF_FILE[image_format], max(0, len(encoded) - _TAIL)) < 0:
            raise PictureError("unreadable picture", f"{path} is cut short: its end marker is missing")
        if size != (picture.width, picture.height):
            raise PictureError("size mismatch", _sizes(path, size, picture))
        return encoded, image_format

    def _read_segments(self, picture: Picture) -> np.ndarray:
        """Returns uint16 [height, width]: 1-based places in segments_info."""
        path = self._files.panoptic_masks / picture.mask_name
        try:
            ids = masks.decode_panoptic_png(_read(path, "mask"))
        except ValueError as error:
            if isinstance(error, PictureError):
                raise
            raise PictureError("unreadable mask", f"{path}: {error}") from None
        if ids.shape != (picture.height, picture.width):
            raise PictureError("size mismatch", _sizes(path, ids.shape[::-1], picture))
        segment_ids = [segment.id for segment in picture.segments]
        places, strangers = masks.segment_places(ids, segment_ids)
        if strangers:
            raise PictureError(
                "mask ids not in the JSON",
                f"{path} has segment ids that segments_info lacks: {_some(strangers)}",
            )
        pixels = np.bincount(places.ravel(), minlength=len(segment_ids) + 1)[1:]
        if not pixels.all():
            empty = [segment_ids[place] for place in np.flatnonzero(pixels == 0)]
            raise PictureError("segments without pixels", f"{path} has no pixels of segments {_some(empty)}")
        return places

    def _objects(self, picture: Picture, places: np.ndarray, counts: Counter[str]) -> list[_Object]:
        objects: list[_Object] = []
        if picture.objects is None:
            for place, segment in enumerate(picture.segments, start=1):
                if self._table.by_id[segment.category_id].isthing:
                    mask = (places == place).view(np.uint8)
                    objects.append(_place(mask, segment.category_id, segment.is_crowd, None, None))
            return objects
        for annotation in picture.objects:
            made = _draw(annotation, picture)
            if isinstance(made, str):
                counts[f"skipped: {made}"] += 1
            else:
                objects.append(made)
        return objects

    def _object_features(self, objects: list[_Object]) -> dict[str, FeatureValue]:
        boxes = np.array([o.box for o in objects], np.float32).reshape(-1, 4)
        return {
            records.OBJECT_XMIN: boxes[:, 0],
            records.OBJECT_XMAX: boxes[:, 1],
            records.OBJECT_YMIN: boxes[:, 2],
            records.OBJECT_YMAX: boxes[:, 3],
            records.OBJECT_LABEL: np.array([o.label for o in objects], np.int64),
            records.OBJECT_TEXT: [self._table.by_id[o.label].name.encode() for o in objects],
            records.OBJECT_IS_CROWD: np.array([o.is_crowd for o in objects], np.int64),
            records.OBJECT_AREA: np.array([o.area for o in objects], np.float32),
            records.OBJECT_MASK: [masks.encode_png(o.mask) for o in objects],
        }

    def _segment_features(self, picture: Picture, places: np.ndarray) -> dict[str, FeatureValue]:
        segments = picture.segments
        by_place = self._table.by_id
        category_of = np.array([0, *(s.category_id for s in segments)], np.uint16)
        instance_of = np.array(
            [0, *(p if by_place[s.category_id].isthing else 0 for p, s in enumerate(segments, start=1))],
            np.uint16,
        )
        pixels = np.bincount(places.ravel(), minlength=len(segments) + 1)[1:]
        areas = [int(n) if s.area is None else s.area for s, n in zip(segments, pixels, strict=True)]
        return {
            records.SEMANTIC_MASK: _encode_lookup(self._semantic[category_of], places),
            records.CATEGORY_MASK: _encode_lookup(category_of, places),
            records.INSTANCE_MASK: _encode_lookup(instance_of, places),
            records.SEGMENT_MASK: _encode_lookup(np.arange(len(segments) + 1, dtype=np.uint16), places),
            records.SEGMENT_ID: np.array([s.id for s in segments], np.int64),
            records.SEGMENT_CATEGORY: np.array([s.category_id for s in segments], np.int64),
            records.SEGMENT_IS_CROWD: np.array([s.is_crowd for s in segments], np.int64),
            records.SEGMENT_AREA: np.array(areas, np.int64),
        }


def _encode_lookup(lookup: np.ndarray, places: np.ndarray) -> bytes:
    """Encodes lookup[places]; in 8 bits where they do, which is faster to gather and to compress."""
    return masks.encode_png((lookup.astype(np.uint8) if lookup.max() <= 255 else lookup)[places])


def _draw(annotation: ObjectAnnotation, picture: Picture) -> _Object | str:
    """Returns the object, or why it has nothing to train on."""
    height, width = picture.height, picture.width
    try:
        mask = masks.rasterize(annotation.segmentation, height, width)
    except ValueError as error:
        raise PictureError("malformed segmentation", f"annotation {annotation.id}: {error}") from None
    if not mask.any():
        return "empty mask"
    if annotation.bbox is not None:
        x, y, w, h = annotation.bbox
        if w <= 0 or h <= 0:
            return "box without area"
        if min(x + w, width) <= max(x, 0) or min(y + h, height) <= max(y, 0):
            return "box outside the picture"
    return _place(mask, annotation.category_id, annotation.is_crowd, annotation.area, annotation.bbox)


def _place(
    mask: np.ndarray,
    label: int,
    is_crowd: bool,
    area: float | None,
    bbox: tuple[float, float, float, float] | None,
) -> _Object:
    """Makes the object; area and box come from the pixels where the annotation has none."""
    height, width = mask.shape
    found = bbox if bbox is not None else masks.box_of_mask(mask)
    assert found is not None, "the mask has pixels"
    x, y, w, h = found
    xmin, xmax = max(x, 0.0) / width, min(x + w, width) / width
    ymin, ymax = max(y, 0.0) / height, min(y + h, height) / height
    return _Object(label, (xmin, xmax, ymin, ymax), is_crowd, float(mask.sum()) if area is None else area, mask)


def _read(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise PictureError(f"{what} missing", f"the {what} {path} does not exist") from None
    except OSError as error:
        raise PictureError(f"unreadable {what}", f"the {what} {path} cannot be read: {error.strerror}") from None


def _sizes(path: Path, size: tuple[int, ...], picture: Picture) -> str:
    return f"{path} is {size[0]}x{size[1]} pixels, the JSON says {picture.width}x{picture.height}"


def _some(values: list[int]) -> str:
    return ", ".join(str(v) for v in values[:5]) + (f" and {len(values) - 5} more" if len(values) > 5 else "")
