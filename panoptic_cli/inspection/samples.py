"""Drawing samples of a data set or of records with their ground truth."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from panoptic_cli import console
from panoptic_cli.categories import CategoryTable
from panoptic_cli.coco.dataset import Picture
from panoptic_cli.coco.file_names import find_file
from panoptic_cli.coco.layout import SplitFiles
from panoptic_cli.errors import DataError
from panoptic_cli.files import atomic_path
from panoptic_cli.images import masks
from panoptic_cli.images.drawing import draw_panoptic
from panoptic_cli.images.mask_files import read_mask
from panoptic_cli.images.pillow import decode_annotated, decode_picture
from panoptic_cli.records import schema
from panoptic_cli.records.tfrecord import read_records

_SHORT_SIDE = 480  # pixels; smaller pictures are enlarged, so that labels are legible
_MAX_SIDE = 1280


@dataclass(frozen=True)
class Sample:
    """A picture with its panoptic ground truth.

    Attributes:
        name: a name that is unique within the source.
        image: uint8 [height, width, 3].
        category_map: int32 [height, width], category ids, 0 for unlabelled.
        instance_map: int32 [height, width], 1-based place in segments_info for things, 0 elsewhere.
    """

    name: str
    image: np.ndarray
    category_map: np.ndarray
    instance_map: np.ndarray


def dataset_samples(files: SplitFiles, table: CategoryTable, pictures: Iterable[Picture]) -> Iterator[Sample]:
    """Yields samples of pictures of a split. Pictures that cannot be read are skipped with a warning.

    Args:
        files: the files of the split.
        table: the split's categories.
        pictures: the pictures to draw.
    """
    for picture in pictures:
        try:
            encoded = find_file(files.image_dir, picture.file_name)[0].read_bytes()
            mask = find_file(files.panoptic_masks, picture.mask_name)[0].read_bytes()
            runs = read_mask(mask, [segment.id for segment in picture.segments]).runs
            image = decode_annotated(encoded, runs.shape, files.exif)
        except (OSError, ValueError) as error:
            reason = (error.strerror if isinstance(error, OSError) else None) or error
            console.warn(f"{picture.file_name} (image {picture.id}) is not drawn: {reason}.")
            continue
        categories = np.array([0, *(s.category_id for s in picture.segments)], np.int64)
        known = [table.by_id.get(segment.category_id) for segment in picture.segments]
        things = [
            place if category is not None and category.isthing else 0 for place, category in enumerate(known, start=1)
        ]
        instances = np.array([0, *things], np.int32)
        yield Sample(f"{files.name}-{picture.id}", image, runs.paint(categories), runs.paint(instances))


def record_samples(paths: Sequence[Path], count: int) -> Iterator[Sample]:
    """Yields up to `count` samples, the first of every file. Unreadable records are skipped with a warning."""
    each = -(-count // max(len(paths), 1))
    left = count
    for path in paths:
        try:
            for index, record in enumerate(islice(read_records(path), min(each, left))):
                try:
                    sample = _record_sample(record)
                except (ValueError, KeyError, IndexError, TypeError) as error:
                    console.warn(f"Record {index} of {path} is not drawn: {error}.")
                    continue
                yield sample
                left -= 1
        except DataError as error:
            console.warn(f"{path} is not drawn completely: {error.message}")
        except OSError as error:
            console.warn(f"{path} is not drawn: {error.strerror}.")


def _record_sample(record: bytes) -> Sample:
    features = schema.decode_example(record)
    sample = Sample(
        bytes(features[schema.IMAGE_SOURCE_ID][0]).decode(errors="replace"),
        decode_picture(bytes(features[schema.IMAGE_ENCODED][0])),
        masks.decode_png(bytes(features[schema.CATEGORY_MASK][0])),
        masks.decode_png(bytes(features[schema.INSTANCE_MASK][0])),
    )
    if not sample.image.shape[:2] == sample.category_map.shape == sample.instance_map.shape:
        raise ValueError("picture and masks differ in size")
    return sample


def draw_samples(samples: Iterable[Sample], table: CategoryTable, output_dir: Path) -> list[Path]:
    """Draws each sample as {name}.png in output_dir and returns the files."""
    written = []
    for sample in samples:
        large = enlarge(sample)
        overlay = draw_panoptic(large.image, large.category_map, large.instance_map, table)
        written.append(save_drawing(overlay, output_dir, sample.name))
    return written


def enlarge(sample: Sample) -> Sample:
    """Enlarges a small sample by a whole factor, so that its labels have room."""
    height, width = sample.image.shape[:2]
    factor = max(1, min(-(-_SHORT_SIDE // min(height, width)), _MAX_SIDE // max(height, width)))
    if factor == 1:
        return sample
    image = Image.fromarray(sample.image).resize((width * factor, height * factor), Image.Resampling.BICUBIC)
    maps = (np.repeat(np.repeat(m, factor, 0), factor, 1) for m in (sample.category_map, sample.instance_map))
    return Sample(sample.name, np.asarray(image), *maps)


def save_drawing(picture: Image.Image, output_dir: Path, name: str) -> Path:
    """Writes {name}.png, with underscores for characters that file names should not have; returns the path."""
    path = output_dir / f"{re.sub(r'[^A-Za-z0-9._-]', '_', name)[:120] or 'sample'}.png"
    with atomic_path(path) as partial:
        picture.save(partial, "PNG")
    return path
