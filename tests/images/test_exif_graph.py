"""The EXIF orientation in a TensorFlow graph is the one that Pillow reads."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from panoptic_cli.images.orientation import orientation_of
from panoptic_cli.images.pillow import decode_picture, open_picture

pytestmark = pytest.mark.slow  # TensorFlow


def _encoded(image_format: str, orientation: int, endian: str) -> bytes:
    exif = Image.Exif()
    exif.endian = endian
    exif[0x010F], exif[0x0112], exif[0x8769] = "a maker", orientation, {0x9000: b"0230"}
    pixels = np.random.default_rng(0).integers(0, 256, (24, 40, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, image_format, exif=exif)
    return stream.getvalue()


@pytest.fixture(scope="module")
def graphs() -> tuple[Any, Any]:
    import tensorflow as tf

    from panoptic_cli.images.decoding import decode_upright
    from panoptic_cli.images.exif_graph import exif_orientation

    spec = [tf.TensorSpec([], tf.string)]
    return tuple(tf.function(f, input_signature=spec, autograph=False) for f in (exif_orientation, decode_upright))


@pytest.mark.parametrize("image_format", ["JPEG", "PNG"])
@pytest.mark.parametrize("endian", ["<", ">"])
def test_every_orientation(graphs: tuple[Any, Any], image_format: str, endian: str) -> None:
    orientation, decoded = graphs
    for value in range(11):
        encoded = _encoded(image_format, value, endian)
        with open_picture(encoded) as opened:
            opened.load()
            assert orientation(encoded).numpy() == orientation_of(opened)
        if 2 <= value <= 8:
            np.testing.assert_array_equal(decoded(encoded).numpy(), decode_picture(encoded, upright=True))


def test_damaged_data_are_upright(graphs: tuple[Any, Any]) -> None:
    orientation, _ = graphs
    rng = np.random.default_rng(1)
    whole = _encoded("JPEG", 6, "<")
    place = whole.index(b"Exif") + 6
    for encoded in (
        b"",
        b"\xff\xd8",
        b"\xff\xd8" + b"\xff" * 99,
        b"\x89PNG\r\n\x1a\n" + rng.bytes(99),
        rng.bytes(500),
        whole[: place + 9],
        whole[:place] + b"II*\0\xff\xff\xff\xff" + whole[place + 8 :],
    ):
        assert orientation(encoded).numpy() == 1
