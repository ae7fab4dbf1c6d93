"""Panoptic PNGs: ids as colours and in files, and files that are wrong."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from panoptic_cli.errors import DataError
from panoptic_cli.images import masks, panoptic_png


def _decode_ids(data: bytes) -> np.ndarray:
    return panoptic_png.rgb_to_ids(panoptic_png.decode_rgb(data))


def test_decoding_colours_inverts_encoding() -> None:
    ids = np.array([[0, 1, 255, 256], [65535, 65536, 2**24 - 2, 2**24 - 1]])
    rgb = panoptic_png.ids_to_rgb(ids)
    assert rgb.dtype == np.uint8
    assert rgb[0, 3].tolist() == [0, 1, 0]
    assert rgb[1, 1].tolist() == [0, 0, 1]
    decoded = panoptic_png.rgb_to_ids(rgb)
    assert decoded.dtype == np.uint32
    np.testing.assert_array_equal(decoded, ids)


@pytest.mark.parametrize("bad", [-1, 2**24])
def test_ids_that_do_not_fit_are_refused(bad: int) -> None:
    with pytest.raises(ValueError, match=str(bad)):
        panoptic_png.ids_to_rgb(np.array([[bad]]))


def test_decoding_pngs_inverts_encoding() -> None:
    ids = np.array([[0, 255, 256], [65535, 65536, (1 << 24) - 1]], np.uint32)
    decoded = _decode_ids(panoptic_png.encode_ids(ids))
    assert decoded.dtype == np.uint32
    np.testing.assert_array_equal(decoded, ids)


def test_a_cut_panoptic_png_is_refused() -> None:
    encoded = panoptic_png.encode_ids(np.arange(10000, dtype=np.uint32).reshape(100, 100))
    with pytest.raises(ValueError, match="cut short"):
        _decode_ids(encoded[: len(encoded) // 2])


def test_grey_values_are_ids() -> None:
    values = np.array([[0, 1], [300, 65535]])
    np.testing.assert_array_equal(_decode_ids(masks.encode_png(values)), values)


@pytest.mark.parametrize("fast", [True, False])
def test_files_are_read_or_refused_with_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fast: bool) -> None:
    if not fast:
        monkeypatch.setattr(panoptic_png, "_decode_plain", lambda data: None)
    rng = np.random.default_rng(5)
    path = tmp_path / "a.png"
    for rgb in (
        rng.integers(0, 256, (17, 23, 3), np.uint8),
        np.repeat(rng.integers(0, 9, (40, 5, 3), np.uint8), 9, 1),
    ):
        Image.fromarray(rgb).save(path)
        np.testing.assert_array_equal(panoptic_png.read_rgb(path), rgb)
        Image.fromarray(np.dstack((rgb, rgb[..., 0]))).save(path)  # alpha
        np.testing.assert_array_equal(panoptic_png.read_rgb(path), rgb)

    Image.fromarray(rng.integers(0, 256, (90, 90, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(DataError, match=r"a\.png is broken"):
        panoptic_png.read_rgb(path)
    path.write_bytes(b"")
    with pytest.raises(DataError, match=r"a\.png is broken"):
        panoptic_png.read_rgb(path)
    Image.new("CMYK", (4, 4)).save(path, "TIFF")
    with pytest.raises(DataError, match=r"a\.png is broken: its mode is CMYK"):
        panoptic_png.read_rgb(path)
    with pytest.raises(DataError, match=r"b\.png does not exist"):
        panoptic_png.read_rgb(tmp_path / "b.png")


def test_a_palette_is_read_as_its_colours() -> None:
    stream = io.BytesIO()
    picture = Image.new("P", (4, 3), 1)
    picture.putpalette([0, 0, 0, 7, 1, 2])
    picture.save(stream, "PNG")
    assert (_decode_ids(stream.getvalue()) == 7 + 256 + 2 * 65536).all()


def test_every_damaged_byte_of_the_pixels_is_found() -> None:
    rng = np.random.default_rng(0)
    encoded = panoptic_png.encode_ids(np.repeat(rng.integers(0, 1 << 24, (24, 4)), 8, axis=1))
    first = encoded.index(b"IDAT") + 4
    for place in range(first, encoded.index(b"IEND") - 4):
        damaged = bytearray(encoded)
        damaged[place] ^= 1 << rng.integers(8)
        with pytest.raises(ValueError, match=r"checksum"):
            _decode_ids(bytes(damaged))
