"""Pictures of more than 8 bits become 8-bit ones by one rule, whichever library decodes them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from kornia_rs.io import write_image_png_u16, write_image_tiff_u16
from PIL import Image

from panoptic_cli.images.pillow import decode


def _samples(brightest: int) -> np.ndarray:
    samples = np.random.default_rng(brightest).integers(0, brightest, (5, 7, 3), np.uint16)
    samples[2, 3, 1] = brightest
    return samples


@pytest.mark.parametrize(
    ("brightest", "divisor"), [(255, 1), (256, 4), (1023, 4), (1024, 16), (4095, 16), (4096, 64), (65535, 256)]
)
def test_the_brightest_sample_decides(tmp_path: Path, brightest: int, divisor: int) -> None:
    samples = _samples(brightest)
    write_image_png_u16(str(tmp_path / "rgb.png"), samples, "rgb")
    write_image_png_u16(str(tmp_path / "rgba.png"), np.dstack([samples, np.full((5, 7), 65535, np.uint16)]), "rgba")
    write_image_tiff_u16(str(tmp_path / "rgb.tif"), samples, "rgb")
    for name in ("rgb.png", "rgba.png", "rgb.tif"):
        found = decode((tmp_path / name).read_bytes())
        np.testing.assert_array_equal(found.pixels, samples // divisor, err_msg=name)
        assert found.scaling == ("unchanged" if divisor == 1 else f"divided by {divisor}")


@pytest.mark.slow
def test_tensorflow_scales_alike(tmp_path: Path) -> None:
    import tensorflow as tf

    from panoptic_cli.images.decoding import decode_image

    for brightest in (200, 255, 256, 1023, 1024, 4095, 4096, 16383, 16384, 65535):
        write_image_png_u16(str(tmp_path / "a.png"), _samples(brightest), "rgb")
        encoded = (tmp_path / "a.png").read_bytes()
        np.testing.assert_array_equal(decode_image(tf.constant(encoded)).numpy(), decode(encoded).pixels)


def _tiff(values: list[float]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.array([values], np.float32)).save(stream, "TIFF")
    return stream.getvalue()


def test_floats() -> None:
    assert decode(_tiff([0.0, 0.5, 1.0])).pixels[0, :, 0].tolist() == [0, 128, 255]
    assert decode(_tiff([0.0, 2.0, 255.0])).pixels[0, :, 0].tolist() == [0, 2, 255]
    assert decode(_tiff([0.0, 1600.9, 4000.0])).pixels[0, :, 0].tolist() == [0, 100, 250]


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_values_without_a_scale_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="scale them to 8 or 16 bits"):
        decode(_tiff([0.0, 300.0, value]))
