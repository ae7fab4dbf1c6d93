from __future__ import annotations

import io
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from panoptic_cli.images import masks, png


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    height=st.integers(1, 3000),
    width=st.integers(1, 700),
    where=st.tuples(*[st.floats(0, 1)] * 4),
    seed=st.integers(0, 99),
)
def test_a_cropped_mask_equals_the_whole_mask(
    height: int, width: int, where: tuple[float, float, float, float], seed: int
) -> None:
    top, left = int(where[0] * (height - 1)), int(where[1] * (width - 1))
    h, w = 1 + int(where[2] * min(40, height - top - 1)), 1 + int(where[3] * (width - left - 1))
    mask = np.zeros((height, width), np.uint8)
    mask[top : top + h, left : left + w] = np.random.default_rng(seed).random((h, w)) < 0.5
    mask[top, left] = mask[top + h - 1, left + w - 1] = 1
    cropped = masks.crop(mask)
    assert cropped is not None
    assert cropped.box == (left, top, w, h)
    np.testing.assert_array_equal(cropped.whole(), mask)
    encoded = cropped.to_png()
    with Image.open(io.BytesIO(encoded)) as opened:  # checks chunk checksums
        np.testing.assert_array_equal(np.asarray(opened), mask)
    stream = b"".join(bytes(content) for kind, content in png.chunks(encoded) if kind == b"IDAT")
    assert len(zlib.decompress(stream)) == height * (width + 1)  # checks Adler-32, which Pillow ignores


def test_damage_and_cuts_are_found_without_decoding() -> None:
    encoded = masks.encode_png(np.arange(2500, dtype=np.uint16).reshape(50, 50))
    assert [kind for kind, _ in png.chunks(encoded)] == [b"IHDR", b"IDAT", b"IEND"]
    for cut in range(8, len(encoded), 7):
        with pytest.raises(ValueError, match="cut short"):
            list(png.chunks(encoded[:cut]))
    for place in range(8, len(encoded)):
        damaged = bytearray(encoded)
        damaged[place] ^= 1
        with pytest.raises(ValueError, match=r"cut short|checksum"):
            list(png.chunks(bytes(damaged)))
