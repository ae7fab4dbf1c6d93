"""Where a picture's size does not tell whether it was annotated turned, the other pictures of the set do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from panoptic_cli.coco.dataset import read_dataset
from panoptic_cli.coco.image_info import find_listed, read_image_info
from panoptic_cli.coco.layout import SplitFiles, coco_files
from panoptic_cli.coco.orientations import exif_of_listed, settle_exif
from panoptic_cli.images.orientation import Exif


def _settled(root: Path, exif: Exif | None = None) -> Exif | None:
    files = coco_files(root, "val")
    files = SplitFiles(files.name, files.panoptic_annotations, files.panoptic_masks, files.image_dir, None, exif)
    return settle_exif(files, read_dataset(files).pictures).exif


def _orient(root: Path, orientation: int, turn_stored: bool) -> None:
    """Gives a picture that is not square an orientation; its stored pixels are turned or not."""
    images = json.loads((root / "annotations" / "panoptic_val2017.json").read_text())["images"]
    image = next(image for image in images if image["width"] != image["height"])
    path = root / "val2017" / image["file_name"]
    exif = Image.Exif()
    exif[0x0112] = orientation
    with Image.open(path) as opened:
        pixels = opened.transpose(Image.Transpose.ROTATE_90) if turn_stored else opened.copy()
    pixels.save(path, exif=exif)


def test_without_a_picture_that_tells_the_view_counts(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _settled(dataset) == "apply"
    _orient(dataset, 3, turn_stored=False)  # its size is the same both ways
    assert _settled(dataset) == "apply"
    assert capsys.readouterr().err == ""


def test_annotations_on_the_view(dataset: Path) -> None:
    _orient(dataset, 6, turn_stored=True)
    assert _settled(dataset) == "apply"
    assert _settled(dataset, "ignore") == "ignore"


def test_annotations_on_the_stored_pixels(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _orient(dataset, 6, turn_stored=False)
    assert _settled(dataset) == "ignore"
    assert "val: annotations fit the stored pixels of pictures with an EXIF orientation" in capsys.readouterr().err
    assert _settled(dataset, "apply") == "apply"


def test_no_pictures_do_not_tell(dataset: Path) -> None:
    files = coco_files(dataset, "val")
    assert settle_exif(files, read_dataset(files).pictures[:0]).exif == "apply"


def test_pictures_that_cannot_be_read_do_not_tell(dataset: Path) -> None:
    paths = sorted((dataset / "val2017").iterdir())
    paths[0].unlink()
    paths[1].write_bytes(b"Exif\0\0 and nothing else")
    assert _settled(dataset) == "apply"


@pytest.mark.parametrize(("turn_stored", "expected"), [(True, "apply"), (False, "ignore")])
def test_sizes_in_a_list_tell_too(dataset: Path, turn_stored: bool, expected: Exif) -> None:
    path = dataset / "annotations" / "panoptic_val2017.json"
    assert exif_of_listed(find_listed(read_image_info(path), dataset / "val2017"), path) == "apply"
    _orient(dataset, 6, turn_stored)
    assert exif_of_listed(find_listed(read_image_info(path), dataset / "val2017"), path) == expected
