"""Masks in other forms than COCO's: read where their ids are clear, and told."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from panoptic_cli.images.mask_files import read_mask
from panoptic_cli.images.panoptic_png import ids_to_rgb

SMALL = np.kron(np.array([[0, 10, 11], [1, 2, 200]]), np.ones((3, 4), np.int64))
LARGE = np.choose(SMALL % 7, [0, 70010, 70011, 3001, 3002, 9, 300])


def _encode(picture: Image.Image, image_format: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, image_format, **options)
    return stream.getvalue()


def _rgb(ids: np.ndarray) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(ids_to_rgb(ids)))


def _with_alpha(ids: np.ndarray) -> Image.Image:
    picture = _rgb(ids).convert("RGBA")
    picture.putalpha(Image.fromarray((ids % 2 * 255).astype(np.uint8)))
    return picture


def _palette(ids: np.ndarray, colours_are_ids: bool) -> Image.Image:
    picture = Image.fromarray(ids.astype(np.uint8)).convert("P")
    picture.putpalette([v for k in range(256) for v in ((k, 0, 0) if colours_are_ids else (k * 37 % 256, 255 - k, k))])
    return picture


FORMS: dict[str, tuple[bytes, np.ndarray, str | None]] = {
    "COCO's": (_encode(_rgb(LARGE)), LARGE, None),
    "alpha": (_encode(_with_alpha(LARGE)), LARGE, None),
    "palette of ids": (_encode(_palette(SMALL, True)), SMALL, None),
    "palette of colours": (_encode(_palette(SMALL, False)), SMALL, "palette"),
    "grey": (_encode(Image.fromarray(SMALL.astype(np.uint8))), SMALL, "grey values"),
    "grey with alpha": (_encode(Image.fromarray(SMALL.astype(np.uint8)).convert("LA")), SMALL, "grey values"),
    "grey of 16 bits": (_encode(Image.fromarray((SMALL * 9).astype(np.uint16))), SMALL * 9, "grey values"),
    "grey of 32 bits": (_encode(Image.fromarray(LARGE.astype(np.int32)), "TIFF"), LARGE, "grey values"),
    "grey as RGB": (_encode(Image.fromarray(SMALL.astype(np.uint8)).convert("RGB")), SMALL, "equal channels"),
    "red and blue exchanged": (
        _encode(Image.fromarray(np.ascontiguousarray(ids_to_rgb(LARGE)[..., ::-1]))),
        LARGE,
        "red and blue exchanged",
    ),
    "BMP": (_encode(_rgb(LARGE), "BMP"), LARGE, None),
    "lossless WebP": (_encode(_rgb(LARGE), "WEBP", lossless=True), LARGE, None),
}


@pytest.mark.parametrize("form", FORMS)
def test_ids_are_read_and_another_form_is_told(form: str) -> None:
    encoded, ids, note = FORMS[form]
    listed = [i for i in np.unique(ids).tolist() if i]
    mask = read_mask(encoded, listed)
    assert mask.strangers == []
    np.testing.assert_array_equal(mask.runs.paint(np.array([0, *listed])), ids)
    assert (mask.note is None) == (note is None)
    assert note is None or note in str(mask.note)


@pytest.mark.parametrize("form", FORMS)
def test_a_mask_with_an_unlisted_id_is_not_read_otherwise(form: str) -> None:
    """Reading it in another way may not hide that an id is missing in the JSON."""
    encoded, ids, _ = FORMS[form]
    mask = read_mask(encoded, [i for i in np.unique(ids).tolist() if i][1:])
    assert mask.strangers


def test_a_mask_that_is_a_jpeg_is_named() -> None:
    with pytest.raises(ValueError, match="it is a JPEG, whose compression damages segment ids"):
        read_mask(_encode(_rgb(LARGE), "JPEG", quality=95), [9])
