"""Checking one record: whether its features can be decoded and agree with each other."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from panoptic_cli.errors import listed
from panoptic_cli.images import masks, png
from panoptic_cli.images.pillow import JPEG_FORMATS
from panoptic_cli.inspection.shared_checks import STUFF_IN_SEVERAL, areas_differ, box_misses_mask, examine_picture
from panoptic_cli.inspection.statistics import Counts, Spread
from panoptic_cli.records import schema

Features = dict[str, list[bytes] | np.ndarray]
_Problems = Iterator[tuple[str, str]]  # kind and message

_NEEDED = (
    schema.IMAGE_ENCODED,
    schema.IMAGE_SOURCE_ID,
    schema.IMAGE_HEIGHT,
    schema.IMAGE_WIDTH,
    schema.CATEGORY_MASK,
    schema.INSTANCE_MASK,
)
_BOX = (schema.OBJECT_YMIN, schema.OBJECT_XMIN, schema.OBJECT_YMAX, schema.OBJECT_XMAX)
_OBJECT_LISTS = (*_BOX, schema.OBJECT_LABEL, schema.OBJECT_IS_CROWD, schema.OBJECT_AREA, schema.OBJECT_MASK)
_SEGMENT_LISTS = (schema.SEGMENT_ID, schema.SEGMENT_CATEGORY, schema.SEGMENT_IS_CROWD, schema.SEGMENT_AREA)
_KINDS = {
    bytes: (
        *(schema.IMAGE_ENCODED, schema.IMAGE_FORMAT, schema.IMAGE_SOURCE_ID, schema.IMAGE_SHA256),
        *(schema.OBJECT_MASK, schema.SEMANTIC_MASK, schema.CATEGORY_MASK, schema.INSTANCE_MASK),
        schema.SEGMENT_MASK,
    ),
    np.int64: (
        *(schema.IMAGE_HEIGHT, schema.IMAGE_WIDTH, schema.OBJECT_LABEL, schema.OBJECT_IS_CROWD),
        *_SEGMENT_LISTS,
    ),
    np.float32: (*_BOX, schema.OBJECT_AREA),
}
_NAMES = {bytes: "bytes", np.int64: "integers", np.float32: "floats"}
_BOX_SLACK = 1e-4  # fraction of the picture; boxes that end at its edge are rounded


@dataclass
class RecordCounts(Counts):
    """Counts of what records contain.

    Attributes:
        counts: "records", "objects", "crowds", "segments".
        objects: number of objects by category id.
        pixels: number of pixels by category id of the category mask; 0 is unlabelled.
        pictures_with: number of pictures by category id.
        widths: widths of the pictures.
        heights: heights of the pictures.
        objects_per_picture: number of objects in each record.
    """

    counts: Counter[str] = field(default_factory=Counter)
    objects: Counter[int] = field(default_factory=Counter)
    pixels: Counter[int] = field(default_factory=Counter)
    pictures_with: Counter[int] = field(default_factory=Counter)
    widths: Spread = field(default_factory=Spread)
    heights: Spread = field(default_factory=Spread)
    objects_per_picture: Spread = field(default_factory=Spread)


def check_record(features: Features, counts: RecordCounts) -> _Problems:
    """Checks a record's features against each other.

    Args:
        features: features as `schema.decode_example` returns them.
        counts: receives the counts of the record.

    Yields:
        (kind, message) of every problem.
    """
    wrong = [(key, kind) for kind, keys in _KINDS.items() for key in keys if not _is(features.get(key, []), kind)]
    for key, kind in wrong:
        yield "feature of a wrong type", f"{key} does not contain {_NAMES[kind]}"
    missing = [key for key in _NEEDED if len(features.get(key, [])) == 0]
    if missing:
        yield "missing feature", f"no {listed(missing)}"
    if wrong or missing:
        return
    size = int(features[schema.IMAGE_HEIGHT][0]), int(features[schema.IMAGE_WIDTH][0])
    counts.heights.add(size[0])
    counts.widths.add(size[1])
    yield from _check_picture(features, size)
    yield from _check_objects(features, size, counts)
    yield from _check_label_pictures(features, size, counts)


def _is(values: list[bytes] | np.ndarray, kind: type) -> bool:
    if len(values) == 0:  # an empty feature may have no type
        return True
    return isinstance(values, list) if kind is bytes else isinstance(values, np.ndarray) and values.dtype == kind


def _check_picture(features: Features, size: tuple[int, int]) -> _Problems:
    encoded = bytes(features[schema.IMAGE_ENCODED][0])
    try:
        image_format, (width, height), *_ = examine_picture(encoded)
    except ValueError as error:
        yield "unreadable picture", str(error)
        return
    if (height, width) != size:
        yield "picture of another size", f"{width}x{height} pixels, the features say {size[1]}x{size[0]}"
    stated = bytes(next(iter(features.get(schema.IMAGE_FORMAT, [])), b"")).decode(errors="replace").lower()
    known = {"jpeg": JPEG_FORMATS, "jpg": JPEG_FORMATS, "png": ("PNG",)}
    if stated and image_format not in known.get(stated, ()):
        yield "picture of another format", f"it is {image_format}, {schema.IMAGE_FORMAT} says {stated!r:.20}"
    digest = bytes(next(iter(features.get(schema.IMAGE_SHA256, [])), b"")).decode(errors="replace")
    if digest and digest != hashlib.sha256(encoded).hexdigest():
        yield "picture differs from its checksum", f"{schema.IMAGE_SHA256} belongs to other bytes"


def _check_objects(features: Features, size: tuple[int, int], counts: RecordCounts) -> _Problems:
    labels = features.get(schema.OBJECT_LABEL, [])
    crowds = features.get(schema.OBJECT_IS_CROWD, [])
    counts.counts["objects"] += len(labels)
    counts.counts["crowds"] += sum(int(flag) != 0 for flag in crowds)
    counts.objects.update(int(label) for label in labels)
    counts.objects_per_picture.add(len(labels))
    lengths = {key: len(features.get(key, [])) for key in _OBJECT_LISTS}
    if len(set(lengths.values())) > 1:
        named = ", ".join(f"{n} of {key.removeprefix('image/object/')}" for key, n in lengths.items())
        yield "object lists of different lengths", named
        return
    if any(int(flag) not in (0, 1) for flag in crowds):
        yield "crowd flag is not 0 or 1", schema.OBJECT_IS_CROWD
    boxes = np.stack([np.asarray(features.get(key, []), np.float64) for key in _BOX], axis=-1)
    for place, (box, encoded) in enumerate(zip(boxes, features.get(schema.OBJECT_MASK, []), strict=True)):
        here = f"object {place}"
        if not (np.isfinite(box).all() and box.min() >= -_BOX_SLACK and box.max() <= 1 + _BOX_SLACK):
            yield "box outside the picture", f"{here}: {np.round(box, 4).tolist()} is not within 0..1"
        elif box[2] <= box[0] or box[3] <= box[1]:
            yield "box without area", f"{here}: {np.round(box, 4).tolist()}"
        try:
            mask = _decode(bytes(encoded), size)
        except ValueError as error:
            yield "unusable object mask", f"{here}: {error}"
            continue
        found = masks.box_of_mask(mask)
        if mask.max() > 1:
            yield "object mask is not 0 and 1", f"{here} has {int(mask.max())}"
        if found is None:
            yield "empty object mask", here
            continue
        pixels, stated = int(np.count_nonzero(mask)), float(features[schema.OBJECT_AREA][place])
        if areas_differ(stated, pixels):
            yield "object area differs from its mask", f"{here}: {stated:g} in the list, {pixels} pixels"
        if np.isfinite(box).all():
            top, left, bottom, right = box * (*size, *size)
            if box_misses_mask((left, top, right - left, bottom - top), found):
                shown = [round(float(v), 1) for v in (left, top, right - left, bottom - top)]
                yield "object box differs from its mask", f"{here}: {shown}, the mask's is {list(found)}"


def _check_label_pictures(features: Features, size: tuple[int, int], counts: RecordCounts) -> _Problems:
    decoded: dict[str, np.ndarray] = {}
    for key in (schema.SEMANTIC_MASK, schema.CATEGORY_MASK, schema.INSTANCE_MASK, schema.SEGMENT_MASK):
        for value in features.get(key, []):
            try:
                decoded[key] = _decode(bytes(value), size)
            except ValueError as error:
                yield "unusable label picture", f"{key}: {error}"
    categories, instances = decoded.get(schema.CATEGORY_MASK), decoded.get(schema.INSTANCE_MASK)
    if categories is not None:
        pixels = np.bincount(categories.ravel())
        present = np.flatnonzero(pixels)
        counts.pixels.update({int(i): int(pixels[i]) for i in present})
        counts.pictures_with.update(int(i) for i in present if i)
    if categories is not None and instances is not None and (instances[categories == 0] != 0).any():
        yield "instances without a category", "the instance mask has pixels that the category mask lacks"
    places = decoded.get(schema.SEGMENT_MASK)
    if places is None:
        return
    lengths = {len(features.get(key, [])) for key in _SEGMENT_LISTS}
    if len(lengths) > 1:
        yield "segment lists of different lengths", ", ".join(str(n) for n in sorted(lengths))
        return
    ids, listed, _, areas = (np.asarray(features.get(key, []), np.int64) for key in _SEGMENT_LISTS)
    counts.counts["segments"] += len(ids)
    if len(np.unique(ids)) < len(ids):
        yield "duplicate segment id", f"{len(ids)} segments have {len(np.unique(ids))} ids"
    if places.max() > len(ids):
        yield (
            "segment map differs from the lists",
            f"it contains index {places.max()}, but there are {len(ids)} segments",
        )
        return
    pixels = np.bincount(places.ravel(), minlength=len(ids) + 1)[1:]
    if not pixels.all():
        yield "segment without pixels", f"segment {int(ids[np.argmin(pixels)])}"
    different = np.flatnonzero(areas != pixels)
    if different.size:
        at = different[0]
        yield "area differs from the mask", f"segment {ids[at]}: {areas[at]} in the list, {pixels[at]} pixels"
    if categories is not None and (np.concatenate(([0], listed))[places] != categories).any():
        yield "category mask differs from the segments", schema.CATEGORY_MASK
    if instances is not None and ((instances != 0) & (instances != places)).any():
        yield "instance mask differs from the segments", schema.INSTANCE_MASK
    if instances is not None:
        stuff = np.setdiff1d(np.arange(1, len(ids) + 1), places[instances != 0])
        for category, count in Counter(listed[stuff - 1].tolist()).items():
            if count > 1:
                yield STUFF_IN_SEVERAL, f"{count} segments of category {category}"


def _decode(encoded: bytes, size: tuple[int, int]) -> np.ndarray:
    """Decodes a label picture; raises ValueError if it is damaged or has another size."""
    png.check_chunks(encoded)
    labels = masks.decode_png(encoded)
    if labels.shape != size:
        raise ValueError(f"it is {labels.shape[1]}x{labels.shape[0]} pixels, the picture is {size[1]}x{size[0]}")
    return labels
