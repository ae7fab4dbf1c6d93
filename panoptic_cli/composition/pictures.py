"""Making the panoptic PNG of one picture."""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from panoptic_cli.categories import VOID_ID, whole_number
from panoptic_cli.coco.image_ids import image_key
from panoptic_cli.coco.json_fields import MAX_SIDE, FieldError
from panoptic_cli.composition.painting import Layer, paint
from panoptic_cli.composition.plans import CompositionPlan
from panoptic_cli.composition.semantic import read_semantic, semantic_path
from panoptic_cli.composition.source import AnnotatedPicture, Source, plain_name
from panoptic_cli.composition.vocabulary import Vocabulary
from panoptic_cli.files import atomic_path
from panoptic_cli.images import masks, panoptic_png
from panoptic_cli.images.encoded import PictureError, read_file
from panoptic_cli.images.orientation import orientation_of, turned_size
from panoptic_cli.images.pillow import open_picture

MOSTLY = 0.5  # hidden share of a thing that is hidden "mostly"


@dataclass(frozen=True)
class MadePicture:
    """A picture of the panoptic data set.

    Attributes:
        image: its entry of `images`, as JSON, which takes less memory.
        annotation: its entry of `annotations`, as JSON.
        png: path of the PNG in its folder.
        state: what it was made from, see `state_of`.
        png_state: size and modification time of the PNG.
        counts: "things", "crowds", "stuff" (segments); "partly", "mostly", "wholly" (hidden things and crowds); "empty"
            (annotations without pixels); "reshaped" (polygons not in COCO's form); "pixels", "unlabelled".
        vanished: the things and crowds that are hidden wholly, one line each.
    """

    image: str
    annotation: str
    png: str
    state: str
    png_state: str
    counts: dict[str, int] = field(default_factory=dict)
    vanished: list[str] = field(default_factory=list)


def png_name(source: Source, file_name: str) -> str:
    """Returns the name of a picture's panoptic PNG. Pictures that differ in their ending alone keep it: a.jpg.png."""
    path = PurePath(file_name)
    stem = path.with_suffix("").as_posix()
    return f"{path.as_posix()}.png" if stem in source.shared_stems else f"{stem}.png"


def file_state(path: Path) -> str:
    """Returns size and modification time of a file."""
    try:
        stat = os.stat(path)
    except OSError:
        return "missing"
    return f"{stat.st_size} {stat.st_mtime_ns}"


def state_of(plan: CompositionPlan, entry: dict[str, Any]) -> str:
    """Returns the state of the files that a picture is made from, besides the annotation files."""
    name = plain_name(entry["file_name"])
    states = []
    if plan.semantic_masks is not None:
        states.append(file_state(semantic_path(plan.semantic_masks, name)))
    if plan.image_dir is not None and _stated_size(entry) is None:
        states.append(file_state(plan.image_dir / name))
    return ", ".join(states)


def make_picture(plan: CompositionPlan, source: Source, vocabulary: Vocabulary, place: int) -> MadePicture:
    """Writes the panoptic PNG of a picture.

    Raises:
        PictureError: the picture's annotations or its semantic PNG are not usable, or its size is not known.
    """
    entry = source.entry(place)
    state = state_of(plan, entry)
    try:
        picture = source.picture(place)
    except FieldError as error:
        raise PictureError("malformed entry", str(error)) from None
    size = _stated_size(entry) or _size_of_file(plan, picture)
    counts: Counter[str] = Counter()
    layers = _layers(picture, vocabulary, size, counts)
    semantic = None
    if plan.semantic_masks is not None:
        semantic = read_semantic(semantic_path(plan.semantic_masks, picture.file_name), size, vocabulary)
    painting = paint(vocabulary.table, size, layers, semantic, plan.overlaps)
    name = png_name(source, picture.file_name)
    path = plan.masks_dir / name
    with atomic_path(path) as partial:
        partial.write_bytes(panoptic_png.encode_ids(painting.ids))
    vanished = []
    for hidden in painting.hidden:
        share = hidden.hidden / hidden.pixels
        counts["wholly" if share == 1 else "mostly" if share > MOSTLY else "partly"] += 1
        if share == 1:
            category = vocabulary.table.by_id[hidden.layer.category_id].name
            vanished.append(f"{category} {hidden.layer.name} of {picture.file_name}")
    for segment in painting.segments:
        isthing = vocabulary.table.by_id[segment["category_id"]].isthing
        counts["crowds" if segment["iscrowd"] else "things" if isthing else "stuff"] += 1
    counts["pixels"] = painting.ids.size
    counts["unlabelled"] = int(np.count_nonzero(painting.ids == VOID_ID))
    identifier = image_key(entry["id"])
    image = {**entry, "id": identifier, "height": size[0], "width": size[1]}
    annotation = {"image_id": identifier, "file_name": name, "segments_info": painting.segments}
    entries = (json.dumps(image), json.dumps(annotation))
    return MadePicture(*entries, name, state, file_state(path), dict(counts), vanished)


def _layers(
    picture: AnnotatedPicture, vocabulary: Vocabulary, size: tuple[int, int], counts: Counter[str]
) -> list[Layer]:
    layers = []
    for outline in picture.outlines:
        ids = vocabulary.of_stuff if outline.is_stuff else vocabulary.of_objects
        category = ids.get(outline.category_id)
        if category is None:  # dropped or left unlabelled
            continue
        segmentation, reshaped = masks.listed_polygons(outline.segmentation)
        counts["reshaped"] += reshaped is not None
        try:
            mask = None if segmentation is None else masks.draw_segmentation(segmentation, *size)
        except ValueError as error:
            raise PictureError("malformed segmentation", f"annotation {outline.id}: {error}") from None
        if mask is None:
            counts["empty"] += 1
        else:
            layers.append(Layer(outline.id, category, outline.is_crowd, mask))
    return layers


def _stated_size(entry: dict[str, Any]) -> tuple[int, int] | None:
    """Returns (height, width) of an entry of `images`; None if they are missing or not possible."""
    height, width = (whole_number(entry.get(key)) for key in ("height", "width"))
    sides = [side for side in (height, width) if side is not None and 1 <= side <= MAX_SIDE]
    return (sides[0], sides[1]) if len(sides) == 2 else None


def _size_of_file(plan: CompositionPlan, picture: AnnotatedPicture) -> tuple[int, int]:
    """Returns the (height, width) of the picture as viewers show it, or as stored if its run lengths have this size."""
    if plan.image_dir is None:
        raise PictureError("size unknown", "the JSON has no width and height; give the pictures with --image-dir")
    path = plan.image_dir / picture.file_name
    try:
        with open_picture(read_file(path, "picture")) as opened:
            stored = opened.height, opened.width
            shown = turned_size(orientation_of(opened), stored)
    except PictureError:
        raise
    except ValueError as error:
        raise PictureError("unreadable picture", f"{path}: {error}") from None
    sizes = [o.segmentation.get("size") for o in picture.outlines if isinstance(o.segmentation, dict)]
    return stored if list(stored) in sizes and list(shown) not in sizes else shown
