from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from panoptic_cli.images.encoded import PictureError, read_picture_file

W, H = 64, 48
_ORIENTATION = 0x0112


def _pixels() -> np.ndarray:
    blocks = np.random.default_rng(0).integers(0, 256, (H // 8, W // 8, 3))
    return np.kron(blocks, np.ones((8, 8, 1), np.int64)).astype(np.uint8)


def _save(path: Path, mode: str = "RGB", **options: Any) -> Path:
    picture = Image.fromarray(_pixels())
    (picture.quantize(16) if mode == "P" else picture.convert(mode)).save(path, **options)
    return path


def _wide_png(path: Path, channels: int) -> Path:
    """Writes 16-bit samples whose upper bytes are the pixels; Pillow cannot write such RGB files."""
    color_type = {1: 0, 3: 2, 4: 6}[channels]
    samples = np.concatenate([_pixels(), _pixels()[..., :1]], axis=-1)[..., :channels].astype(">u2") * 256 + 77
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", W, H, 16, color_type, 0, 0, 0)), (b"IDAT", zlib.compress(rows)))
    data = b"\x89PNG\r\n\x1a\n"
    for kind, content in (*chunks, (b"IEND", b"")):
        data += struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    path.write_bytes(data)
    return path


def _turned(path: Path, orientation: int, **options: Any) -> Path:
    exif = Image.Exif()
    exif[_ORIENTATION] = orientation
    Image.fromarray(_pixels()).save(path, exif=exif, **options)
    return path


FORMS: dict[str, Any] = {
    "jpeg": lambda d: _save(d / "a.jpg"),
    "progressive jpeg": lambda d: _save(d / "a.jpg", progressive=True),
    "grey jpeg": lambda d: _save(d / "a.jpg", "L"),
    "cmyk jpeg": lambda d: _save(d / "a.jpg", "CMYK", quality=95),
    "png": lambda d: _save(d / "a.png"),
    "grey png": lambda d: _save(d / "a.png", "L"),
    "bilevel png": lambda d: _save(d / "a.png", "1"),
    "grey and alpha png": lambda d: _save(d / "a.png", "LA"),
    "alpha png": lambda d: _save(d / "a.png", "RGBA"),
    "palette png": lambda d: _save(d / "a.png", "P", bits=4),
    "palette png with transparency": lambda d: _save(d / "a.png", "P", transparency=3),
    "wrong name": lambda d: _save(d / "a.jpg", format="PNG"),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_stored_as_found(tmp_path: Path, form: str) -> None:
    path = FORMS[form](tmp_path)
    picture = read_picture_file(path, W, H)
    assert picture.encoded == path.read_bytes()
    assert picture.format == ("jpeg" if "jpeg" in form else "png")
    assert picture.notes == ()


@pytest.mark.parametrize("image_format", ["BMP", "TIFF", "GIF", "WEBP", "PPM"])
def test_other_formats_are_stored_as_png_without_loss(tmp_path: Path, image_format: str) -> None:
    options = {"lossless": True} if image_format == "WEBP" else {}
    path = _save(tmp_path / "a.jpg", "P" if image_format == "GIF" else "RGB", format=image_format, **options)
    picture = read_picture_file(path, W, H)
    assert picture.format == "png"
    assert picture.notes == (f"pictures of the format {image_format} stored as PNG",)
    with Image.open(io.BytesIO(picture.encoded)) as stored, Image.open(path) as original:
        assert stored.format == "PNG"
        np.testing.assert_array_equal(np.asarray(stored), np.asarray(original.convert("RGB")))


@pytest.mark.parametrize("image_format", ["GIF", "TIFF", "WEBP"])
def test_of_several_frames_the_first_is_used_and_that_is_told(tmp_path: Path, image_format: str) -> None:
    frames = [Image.fromarray(_pixels()).convert("L"), Image.new("L", (W, H), 9)]
    options = {"lossless": True} if image_format == "WEBP" else {}
    frames[0].save(tmp_path / "a", image_format, save_all=True, append_images=frames[1:], **options)
    picture = read_picture_file(tmp_path / "a", W, H)
    assert "pictures of several frames or pages, of which the first is used" in picture.notes
    with Image.open(io.BytesIO(picture.encoded)) as stored:
        np.testing.assert_array_equal(np.asarray(stored)[..., 0], np.asarray(frames[0]))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_sixteen_bits_are_scaled_and_that_is_told(tmp_path: Path, channels: int) -> None:
    picture = read_picture_file(_wide_png(tmp_path / "a.png", channels), W, H)
    assert picture.format == "png"
    assert [note.split(":")[0] for note in picture.notes] == [
        "pictures of more than 8 bits scaled by the picture's brightest value"
    ]
    expected = np.repeat(_pixels()[..., :1], 3, axis=-1) if channels == 1 else _pixels()
    with Image.open(io.BytesIO(picture.encoded)) as stored:
        np.testing.assert_array_equal(np.asarray(stored), expected)


@pytest.mark.slow
def test_tensorflow_decodes_every_form(tmp_path: Path) -> None:
    from panoptic_cli.images.decoding import decode_image

    for number, (form, make) in enumerate(FORMS.items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        path = make(folder)
        decoded = decode_image(read_picture_file(path, W, H).encoded).numpy().astype(int)
        with Image.open(path) as opened:
            expected = np.asarray(opened.convert("RGB"))
        # Two JPEG decoders may round their inverse transforms and colours differently.
        assert np.abs(decoded - expected).max() <= (3 if "jpeg" in form else 0), form


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp"])
def test_annotations_decide_whether_a_picture_is_turned(tmp_path: Path, orientation: int, name: str) -> None:
    """And where they fit both ways, the option does."""
    path = _turned(tmp_path / name, orientation)
    with Image.open(path) as original:
        as_stored, upright = np.asarray(original), np.asarray(ImageOps.exif_transpose(original))
    fits_both = as_stored.shape == upright.shape
    for exif, expected in (("apply", upright), ("ignore", as_stored), (None, upright)):
        if not fits_both:
            expected = as_stored
        picture = read_picture_file(path, W, H, exif)  # type: ignore[arg-type]
        with Image.open(io.BytesIO(picture.encoded)) as opened:
            np.testing.assert_array_equal(np.asarray(opened), expected)
        told = [note for note in picture.notes if "EXIF" in note]
        assert len(told) == (orientation != 1)
        assert all(("fit both ways" in note) == fits_both for note in told)
        if name != "a.webp" and (expected is as_stored or orientation == 1):
            assert picture.encoded == path.read_bytes()
    if fits_both:
        with pytest.raises(PictureError, match="the JSON says 48x64"):
            read_picture_file(path, H, W)
        return
    turned = read_picture_file(path, H, W, "ignore")
    with Image.open(io.BytesIO(turned.encoded)) as opened:
        assert opened.getexif().get(_ORIENTATION, 1) == 1
        np.testing.assert_array_equal(np.asarray(opened), upright)


def test_an_end_marker_in_a_thumbnail_does_not_hide_that_a_jpeg_is_cut_short(tmp_path: Path) -> None:
    stream = io.BytesIO()
    Image.fromarray(_pixels()).save(stream, "JPEG")
    thumbnail = b"Exif\0\0" + stream.getvalue()  # not valid EXIF, and it ends with an end marker
    whole = stream.getvalue()
    path = tmp_path / "a.jpg"
    path.write_bytes(whole[:2] + b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail + whole[2:])
    assert read_picture_file(path, W, H).notes == ()
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(PictureError, match="cut short") as caught:
        read_picture_file(path, W, H)
    assert caught.value.reason == "unreadable picture"


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_every_cut_is_found(tmp_path: Path, name: str) -> None:
    path = _save(tmp_path / name)
    whole = path.read_bytes()
    for length in range(0, len(whole) - 1, 5):
        path.write_bytes(whole[:length])
        with pytest.raises(PictureError):
            read_picture_file(path, W, H)


def test_a_marker_among_the_pixels_is_found(tmp_path: Path) -> None:
    path = _save(tmp_path / "a.jpg", quality=95)
    damaged = bytearray(path.read_bytes())
    damaged[-60:-58] = b"\xff\xc0"  # a second frame header, which decoders refuse
    path.write_bytes(damaged)
    with pytest.raises(PictureError, match="marker FFC0"):
        read_picture_file(path, W, H)


def test_bytes_after_the_end_are_accepted(tmp_path: Path) -> None:
    path = _save(tmp_path / "a.jpg")
    path.write_bytes(path.read_bytes() + b"camera maker's data" * 10_000)
    assert read_picture_file(path, W, H).notes == ()
