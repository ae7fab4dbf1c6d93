"""Numbering the images of an instances JSON like those of its panoptic JSON: by id, or by file name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from panoptic_cli.coco import json_entries
from panoptic_cli.coco.image_ids import ImageIds, id_key
from panoptic_cli.coco.image_names import name_parts
from panoptic_cli.coco.json_index import JsonIndex
from panoptic_cli.coco.problems import Notes, Problem


class _Image(NamedTuple):
    """An entry of `images`; an unknown size is 0, 0."""

    key: str
    name: str
    width: int
    height: int


def number_images(
    instances: JsonIndex,
    panoptic: JsonIndex,
    ids: ImageIds,
    known: set[int],
    notes: Notes,
    problems: list[Problem],
) -> ImageIds:
    """Returns the numbers of the instances JSON's image ids.

    Ids are compared by file name. If they disagree, and names belong to other ids, the names decide.

    Args:
        instances: index of the instances JSON. Without `images`, its ids are those of the panoptic JSON.
        panoptic: index of the panoptic JSON.
        ids: numbers the images of the panoptic JSON.
        known: the numbers of its usable images.
        notes: receives that names decide.
        problems: receives ids with other names in both files, and sizes that differ.
    """
    theirs = list(_images(instances))
    if not theirs:
        return ids
    ours = [image for image in _images(panoptic) if ids.number(image.key) in known]
    by_key = {image.key: image for image in ours}
    pairs = [(image, by_key[image.key]) for image in theirs if image.key in by_key]
    differing = [(one, other) for one, other in pairs if not _same_name(one, other)]
    if differing or not pairs:
        by_name = _by_name(ours, theirs)
        named = [(image, by_name[image.key]) for image in theirs if image.key in by_name]
        moved = [(one, other) for one, other in named if one.key != other.key]
        if moved:
            one, other = moved[0]
            detail = f"{other.name} is image {one.key} there, {other.key} here"
            notes.add("images are paired with the instances JSON by file name", detail, len(moved))
            _compare_sizes(named, ids, instances, panoptic, problems)
            return ImageIds({one.key: _number(ids, other) for one, other in named})
        for one, other in differing:
            message = f"image {one.key} is {one.name!r}, but {other.name!r} in {panoptic.file.path}"
            problems.append(Problem("image of another file name", instances.file.path, message, _number(ids, other)))
    _compare_sizes(pairs, ids, instances, panoptic, problems)
    return ids


def _same_name(one: _Image, other: _Image) -> bool:
    return one.name == other.name or name_parts(one.name)[-1] == name_parts(other.name)[-1]


def _compare_sizes(
    pairs: list[tuple[_Image, _Image]],
    ids: ImageIds,
    instances: JsonIndex,
    panoptic: JsonIndex,
    problems: list[Problem],
) -> None:
    for one, other in pairs:
        sizes = (one.width, one.height), (other.width, other.height)
        if sizes[0] != sizes[1] and all(size[0] for size in sizes):
            (w, h), (width, height) = sizes
            message = f"image {one.key} ({one.name}) is {w}x{h}, but {width}x{height} in {panoptic.file.path}"
            problems.append(Problem("image of another size", instances.file.path, message, _number(ids, other)))


def _number(ids: ImageIds, image: _Image) -> int:
    number = ids.number(image.key)
    assert number is not None, "only known images are compared"
    return number


def _by_name(ours: list[_Image], theirs: list[_Image]) -> dict[str, _Image]:
    """Returns our image of the same name for each of their keys; by whole paths if last parts are not unique."""
    for first in (-1, 0):
        named = {tuple(name_parts(image.name)[first:]): image for image in ours}
        keys = {tuple(name_parts(image.name)[first:]): image.key for image in theirs}
        if len(named) == len(ours) and len(keys) == len(theirs):
            return {key: named[name] for name, key in keys.items() if name in named}
    return {}


def _images(index: JsonIndex) -> Iterator[_Image]:
    """Yields the images of a file that have an id and a name; the others are reported elsewhere."""
    for _, text, spans in index.regions("images") if "images" in index.lists else ():
        try:
            sound = json_entries.DECODE_IMAGES.decode(b"[" + text + b"]")
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            sound = []
        if len(sound) == len(spans):
            yield from (_Image(str(entry.id), entry.file_name, entry.width, entry.height) for entry in sound)
            continue
        for begin, end in spans.tolist():
            try:
                entry: Any = json_entries.decode_entry(text[begin:end])
                key = id_key(entry.get("id"))
                image = json_entries.check_image(entry)
            except (ValueError, RecursionError, AttributeError):  # a FieldError is a ValueError
                continue
            if key is not None:
                yield _Image(key, *image)
