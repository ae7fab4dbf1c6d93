"""Drawings of Panoptic FPN's training examples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from panoptic_cli.config.schema import Task
from panoptic_cli.images.drawing import draw_panoptic
from panoptic_cli.images.fonts import label
from panoptic_cli.inspection.samples import Sample, enlarge
from panoptic_cli.models.example_inputs import fill_padding, input_picture
from panoptic_cli.models.panoptic_fpn.label_space import THING_CLASS, LabelSpace
from panoptic_cli.pipeline.preprocessing import Preprocessing

_THING = (255, 255, 255)
_GAP = 8  # pixels between the two views
_MASK_THRESHOLD = 127  # of 255


@dataclass(frozen=True)
class Example:
    """One training example.

    Attributes:
        image: uint8 [height, width, 3], the network's input without its normalisation.
        boxes: float32 [n, 4], (y1, x1, y2, x2) in pixels of the input.
        classes: int32 [n], classes of the box head.
        masks: uint8 [n, s, s] in 0..255, each cropped to its box.
        semantic: int32 [height, width], classes of the semantic head.
        inside: bool [height, width], True for the picture and False for padding.
    """

    image: np.ndarray
    boxes: np.ndarray
    classes: np.ndarray
    masks: np.ndarray
    semantic: np.ndarray
    inside: np.ndarray


class ExampleDrawer:
    """Draws training examples of Panoptic FPN.

    Args:
        task: the configuration of the network and the data.
        label_space: the classes of the heads.
    """

    def __init__(self, task: Task, label_space: LabelSpace) -> None:
        self._preprocessing = Preprocessing(task.model.input_size[:2])
        self._label_space = label_space

    def __call__(self, batch: Mapping[str, Any]) -> Image.Image:
        """Draws the only example of a batch, given as NumPy arrays."""
        return draw_example(read_example(batch, self._preprocessing), self._label_space)


def read_example(batch: Mapping[str, Any], preprocessing: Preprocessing) -> Example:
    """Reads the only example of a batch of `training_dataset` and undoes the normalisation of its picture."""
    image, inside = input_picture(batch, preprocessing)
    real = batch["gt_classes"][0] > 0
    return Example(
        image,
        batch["gt_boxes"][0][real],
        batch["gt_classes"][0][real],
        batch["gt_masks"][0][real],
        batch["semantic_labels"][0],
        inside,
    )


def draw_example(example: Example, label_space: LabelSpace) -> Image.Image:
    """Draws two views side by side: objects with boxes and masks on the left, semantic labels on the right.

    On the right, stuff has its colours, things are white, and unlabelled pixels show the picture. Padding is dark grey.
    """
    table = label_space.table
    categories, instances = _paste(example, label_space)
    large = enlarge(Sample("", example.image, categories, instances))
    objects = draw_panoptic(large.image, large.category_map, large.instance_map, table, labels=False)
    scale = large.image.shape[0] // example.image.shape[0]
    objects = fill_padding(objects, example.inside)
    _draw_boxes(objects, example, label_space, scale)

    semantic = np.where(example.inside, example.semantic, 0)
    stuff = np.where((semantic >= 0) & (semantic < len(label_space.semantic_ids)), semantic, 0)
    stuff_ids = label_space.semantic_ids[stuff]
    no_things = np.zeros_like(instances)
    large = enlarge(Sample("", example.image, stuff_ids, no_things))
    things = np.kron(semantic == THING_CLASS, np.ones((scale, scale), bool))
    labels = draw_panoptic(large.image, large.category_map, large.instance_map, table, alpha=0.7)
    tinted = np.asarray(labels).copy()
    tinted[things] = (0.4 * tinted[things] + 0.6 * np.array(_THING)).astype(np.uint8)
    right = fill_padding(Image.fromarray(tinted), example.inside)

    sheet = Image.new("RGB", (objects.width * 2 + _GAP, objects.height))
    sheet.paste(objects, (0, 0))
    sheet.paste(right, (objects.width + _GAP, 0))
    return sheet


def _paste(example: Example, label_space: LabelSpace) -> tuple[np.ndarray, np.ndarray]:
    """Pastes the cropped masks into maps of category ids and 1-based object numbers, int32 [height, width]."""
    height, width = example.semantic.shape
    categories = np.zeros((height, width), np.int32)
    instances = np.zeros((height, width), np.int32)
    areas = np.prod(example.boxes[:, 2:] - example.boxes[:, :2], axis=-1)
    for place in np.argsort(-areas):  # small objects on top of large ones
        y1, x1, y2, x2 = example.boxes[place]
        # Pixels whose centres are in the box.
        rows = np.arange(int(np.ceil(y1 - 0.5)), min(int(np.floor(y2 - 0.5)) + 1, height))
        columns = np.arange(int(np.ceil(x1 - 0.5)), min(int(np.floor(x2 - 0.5)) + 1, width))
        if not (len(rows) and len(columns)):
            continue
        crop = example.masks[place]
        # The crop's samples are at the box's corners and evenly spaced between them.
        at_y = np.clip((rows + 0.5 - y1) / (y2 - y1) * (crop.shape[0] - 1), 0, crop.shape[0] - 1)
        at_x = np.clip((columns + 0.5 - x1) / (x2 - x1) * (crop.shape[1] - 1), 0, crop.shape[1] - 1)
        inside = crop[np.rint(at_y).astype(int)[:, None], np.rint(at_x).astype(int)] > _MASK_THRESHOLD
        area = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        categories[area][inside] = label_space.thing_ids[example.classes[place]]
        instances[area][inside] = place + 1
    return categories, instances


def _draw_boxes(picture: Image.Image, example: Example, label_space: LabelSpace, scale: int) -> None:
    """Draws every box in its category's colour with the category's name at its top left corner."""
    by_id = label_space.table.by_id
    line = max(1, round(min(picture.size) / 300))
    size = max(11, round(min(picture.size) * 0.024))
    draw = ImageDraw.Draw(picture, "RGBA")
    named = []
    for box, number in zip(example.boxes, example.classes, strict=True):
        category = by_id[int(label_space.thing_ids[number])]
        color = category.color
        y1, x1, y2, x2 = (float(v) * scale for v in box)
        draw.rectangle((x1, y1, max(x2 - 1, x1), max(y2 - 1, y1)), outline=(0, 0, 0, 255), width=line + 2)
        draw.rectangle((x1, y1, max(x2 - 1, x1), max(y2 - 1, y1)), outline=(*color, 255), width=line)
        named.append((*label(label_space.table, category.id, size), x1, y1))
    for text, font, x, y in named:
        left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
        width, height = right - left + 4, bottom - top + 4
        x, y = min(x, picture.width - width), max(y - height, 0)
        draw.rectangle((x, y, x + width, y + height), fill=(0, 0, 0, 180))
        draw.text((x + 2 - left, y + 2 - top), text, fill=(255, 255, 255, 255), font=font)
