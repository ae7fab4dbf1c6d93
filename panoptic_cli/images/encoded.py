"""Picture files as records store them: JPEG and PNG headers, completeness, EXIF orientation.

Pictures are stored as found and checked without decoding: a 640x480 JPEG takes 6 ms to decode and 0.2 ms to walk
through. The walk finds files that are cut short, are something else, or have misplaced markers. PNGs have checksums,
so damage inside them is found as well. Other bit errors in a JPEG show only when it is decoded, as `panoptic inspect`
does.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import ImageOps

from panoptic_cli.images import png
from panoptic_cli.images.pillow import TRANSPOSED, open_picture, orientation_in

_START_OF_FRAME = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_DECODABLE_FRAMES = {0xC0, 0xC1, 0xC2}  # baseline, extended, progressive: every libjpeg reads these
_START_OF_SCAN, _APP1 = 0xDA, 0xE1
_WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD9)}
_END_OF_IMAGE = 0xD9
_BETWEEN_SCANS = {0xC4, _START_OF_SCAN, 0xDB, 0xDC, 0xDD, 0xFE, *range(0xE0, 0xF0)}  # tables, scans, comments
_EXIF = b"Exif\0\0"


class PictureError(ValueError):
    """A picture that cannot be converted.

    Attributes:
        reason: the kind of defect, in the same words for every picture of that kind.
        detail: what is wrong with this picture.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return self.detail


@dataclass(frozen=True)
class PictureFile:
    """A picture as a record stores it.

    Attributes:
        encoded: the file's bytes, or a PNG if the picture had to be changed.
        format: "jpeg" or "png".
        note: what the user should know about it, in the same words for every picture of that kind (conversions count
            them and manifests keep them); None for nothing.
    """

    encoded: bytes
    format: str
    note: str | None = None


@dataclass(frozen=True)
class _Header:
    format: str
    width: int
    height: int
    decodable: bool  # by TensorFlow
    exif: bytes | None

    def orientation(self) -> int:
        """Returns the EXIF orientation, 1 (upright) if there is no usable one."""
        return 1 if self.exif is None else orientation_in(self.exif)


def read_file(path: Path, what: str) -> bytes:
    """Reads a file that belongs to a picture; `what` names it in the PictureError."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise PictureError(f"{what} missing", f"the {what} {path} does not exist") from None
    except OSError as error:
        raise PictureError(f"unreadable {what}", f"the {what} {path} cannot be read: {error.strerror}") from None


def read_picture_file(path: Path, width: int, height: int) -> PictureFile:
    """Reads a picture and checks that it is whole and that TensorFlow decodes it to the annotations' size.

    TensorFlow itself reads greyscale, CMYK, palettes, alpha and 16 bits as 8-bit RGB, so these are stored as found. It
    does not apply the EXIF orientation. Annotations usually belong to the stored pixels. If their size fits only the
    turned picture, the record gets the turned picture as a PNG, which is lossless.

    Args:
        path: a JPEG or a PNG.
        width: the annotations' width in pixels.
        height: the annotations' height in pixels.

    Raises:
        PictureError: the picture is missing, not whole, of another format or of another size.
    """
    encoded = read_file(path, "picture")
    try:
        if encoded[:2] == b"\xff\xd8":
            header = _jpeg_header(encoded)
        elif encoded[:8] == png.SIGNATURE:
            header = _png_header(encoded)
        else:
            raise _neither_jpeg_nor_png(path, encoded)
    except PictureError:
        raise
    except (ValueError, IndexError) as error:
        reason = "it is cut short" if isinstance(error, IndexError) else error
        raise PictureError("unreadable picture", f"the picture {path} is damaged: {reason}") from None
    orientation = header.orientation()
    if (header.width, header.height) == (width, height):
        if not header.decodable:
            return PictureFile(
                _as_png(path, encoded), "png", "pictures stored as PNG: TensorFlow cannot read these JPEGs"
            )
        note = (
            None
            if orientation == 1
            else "pictures with an EXIF orientation left as stored: the annotations fit the stored pixels"
        )
        return PictureFile(encoded, header.format, note)
    if (header.height, header.width) == (width, height) and orientation in TRANSPOSED:
        note = "pictures turned as EXIF says and stored as PNG: the annotations fit the turned picture"
        return PictureFile(_as_png(path, encoded), "png", note)
    raise PictureError("size mismatch", size_mismatch(path, (header.width, header.height), (width, height)))


def size_mismatch(path: Path, found: tuple[int, ...], expected: tuple[int, int]) -> str:
    """Returns the message for a file whose size (width, height) differs from the annotations'."""
    return f"{path} is {found[0]}x{found[1]} pixels, the JSON says {expected[0]}x{expected[1]}"


def _jpeg_header(data: bytes) -> _Header:
    """Walks through a JPEG's segments to its end.

    Searching for the end marker is not enough: a thumbnail in the EXIF data has one too.
    """
    frame: tuple[int, int, int, int, int] | None = None
    exif: bytes | None = None
    place = 2
    while True:
        if data[place] != 0xFF:
            raise ValueError(f"no JPEG segment begins at byte {place}")
        marker = data[place + 1]
        if marker == 0xFF:  # padding
            place += 1
            continue
        place += 2
        if marker in _WITHOUT_LENGTH:
            continue
        if place + 2 > len(data):
            raise ValueError("it is cut short")
        length = int.from_bytes(data[place : place + 2], "big")
        content = data[place + 2 : place + length]
        if length < 2 or len(content) != length - 2:
            raise ValueError("it is cut short")
        if marker in _START_OF_FRAME and len(content) >= 6:
            size = int.from_bytes(content[1:3], "big"), int.from_bytes(content[3:5], "big")
            frame = (marker, content[0], *size, content[5])
        elif marker == _APP1 and content.startswith(_EXIF) and exif is None:
            exif = content
        place += length
        if marker == _START_OF_SCAN:
            break
    if frame is None:
        raise ValueError("it has no frame header")
    _walk_scans(data, place)
    marker, precision, height, width, components = frame
    decodable = marker in _DECODABLE_FRAMES and precision == 8 and components in (1, 3, 4)
    return _Header("jpeg", width, height, decodable, exif)


def _walk_scans(data: bytes, place: int) -> None:
    """Walks from the first scan's data to the end marker.

    Within a scan, the byte FF is followed by 00, a restart marker or padding; anything else begins the next segment.

    Raises:
        ValueError: the end marker is missing, or a marker is misplaced.
    """
    pixels = np.frombuffer(data, np.uint8)
    places = np.flatnonzero(pixels[place:-1] == 0xFF) + place
    kinds = pixels[places + 1]
    found = (kinds != 0) & (kinds != 0xFF) & ((kinds < 0xD0) | (kinds > 0xD7))
    for start, marker in zip(places[found].tolist(), kinds[found].tolist(), strict=True):
        if start < place:  # inside the previous segment
            continue
        if marker == _END_OF_IMAGE:
            return
        if marker not in _BETWEEN_SCANS:
            raise ValueError(f"the marker FF{marker:02X} is among its pixels")
        place = start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")
    raise ValueError("it is cut short: its end marker is missing")


def _png_header(data: bytes) -> _Header:
    header: bytes | None = None
    exif: bytes | None = None
    pixels = False
    for kind, content in png.chunks(data):
        if kind == b"IHDR" and header is None:
            header = bytes(content)
        elif kind == b"eXIf":
            exif = _EXIF + bytes(content)
        pixels |= kind == b"IDAT"
    if header is None or len(header) != 13 or not pixels:
        raise ValueError("it has no pixels")
    return _Header("png", int.from_bytes(header[:4], "big"), int.from_bytes(header[4:8], "big"), True, exif)


def _as_png(path: Path, encoded: bytes) -> bytes:
    """Decodes with Pillow, applies the EXIF orientation, and encodes as 8-bit RGB PNG."""
    stream = io.BytesIO()
    try:
        with open_picture(encoded) as opened:
            ImageOps.exif_transpose(opened).convert("RGB").save(stream, "PNG")
    except ValueError as error:
        raise PictureError("unreadable picture", f"the picture {path} cannot be decoded: {error}") from None
    return stream.getvalue()


def _neither_jpeg_nor_png(path: Path, encoded: bytes) -> PictureError:
    try:
        with open_picture(encoded) as opened:
            name = opened.format
    except ValueError:
        return PictureError("unreadable picture", f"{path} is not a picture")
    return PictureError("unknown picture format", f"the picture {path} is {name}, neither JPEG nor PNG")
