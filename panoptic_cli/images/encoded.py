"""Picture files as records store them: JPEG and PNG headers, completeness, EXIF orientation.

JPEGs and PNGs are stored as found and checked without decoding: a 640x480 JPEG takes 6 ms to decode and 0.2 ms to walk
through. The walk finds files that are cut short, are something else, or have misplaced markers. PNGs have checksums,
so damage inside them is found as well. Other bit errors in a JPEG show only when it is decoded, as `panoptic inspect`
does.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from panoptic_cli.images import png
from panoptic_cli.images.depth import DEEP_NOTE, is_deep
from panoptic_cli.images.limits import TooLargeError, check_size
from panoptic_cli.images.orientation import Exif, is_turned, orientation_in, orientation_of, turned_size
from panoptic_cli.images.pillow import FRAMES_NOTE, decode_picture, has_frames, open_picture

_START_OF_FRAME = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_DECODABLE_FRAMES = {0xC0, 0xC1, 0xC2}  # baseline, extended, progressive: every libjpeg reads these
_START_OF_SCAN, _APP1 = 0xDA, 0xE1
_WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD9)}
_END_OF_IMAGE = 0xD9
_BETWEEN_SCANS = {0xC4, _START_OF_SCAN, 0xDB, 0xDC, 0xDD, 0xFE, *range(0xE0, 0xF0)}  # tables, scans, comments
_EXIF = b"Exif\0\0"
_DEEP = 16  # bits a sample of a PNG

_EXIF_NOTES = {  # by whether the picture is turned, and whether the annotations fit both ways
    (True, False): "pictures turned as the EXIF orientation says: the annotations fit only so",
    (False, False): "pictures with an EXIF orientation left as stored: the annotations fit only so",
    (True, True): "pictures turned as the EXIF orientation says: the annotations fit both ways (see --exif)",
    (False, True): "pictures with an EXIF orientation left as stored: the annotations fit both ways (see --exif)",
}


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
        notes: what the user should know about it, in the same words for every picture of that kind (conversions count
            them and manifests keep them).
    """

    encoded: bytes
    format: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Header:
    """What the beginning of a picture file tells.

    Attributes:
        format: "jpeg", "png", or Pillow's name of another format.
        width: in pixels, as stored.
        height: in pixels, as stored.
        orientation: the EXIF orientation, 1..8.
        notes: why the file's bytes cannot be stored; empty if they can.
    """

    format: str
    width: int
    height: int
    orientation: int
    notes: tuple[str, ...] = ()


def read_file(path: Path, what: str) -> bytes:
    """Reads a file that belongs to a picture; `what` names it in the PictureError."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise PictureError(f"{what} missing", f"the {what} {path} does not exist") from None
    except OSError as error:
        raise PictureError(f"unreadable {what}", f"the {what} {path} cannot be read: {error.strerror}") from None


def read_picture_file(path: Path, width: int, height: int, exif: Exif | None = None) -> PictureFile:
    """Reads a picture and checks that it is whole and of the annotations' size.

    TensorFlow itself reads greyscale, CMYK, palettes and alpha as 8-bit RGB, so these are stored as found. It does not
    apply the EXIF orientation. If the annotations belong to the turned picture (see `orientation`), the record gets the
    turned picture. Turned pictures, other formats than JPEG and PNG, and more than 8 bits become PNGs of 8-bit RGB.

    Args:
        path: a picture of any format that Pillow reads.
        width: the annotations' width in pixels.
        height: the annotations' height in pixels.
        exif: see `orientation.is_turned`.

    Raises:
        PictureError: the picture is missing, not whole, too large, unknown or of another size.
    """
    encoded = read_file(path, "picture")
    try:
        header = read_header(encoded)
        check_size(header.width, header.height)
    except TooLargeError as error:
        raise PictureError("picture too large", f"the picture {path} cannot be read: {error}") from None
    except (ValueError, IndexError) as error:
        reason = "it is cut short" if isinstance(error, IndexError) else error
        raise PictureError("unreadable picture", f"the picture {path} cannot be read: {reason}") from None
    stored = (header.width, header.height)
    turned = is_turned(header.orientation, stored, (width, height), exif)
    if turned is None:
        raise PictureError("size mismatch", size_mismatch(path, stored, (width, height)))
    notes = header.notes
    if header.orientation != 1:
        fits_both = stored == turned_size(header.orientation, stored)
        notes = (*notes, _EXIF_NOTES[turned, fits_both])
    if not turned and not header.notes:
        return PictureFile(encoded, header.format, notes)
    try:
        pixels = decode_picture(encoded, upright=turned)
    except ValueError as error:
        raise PictureError("unreadable picture", f"the picture {path} cannot be decoded: {error}") from None
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", compress_level=3)
    return PictureFile(stream.getvalue(), "png", notes)


def size_mismatch(path: Path, found: tuple[int, ...], expected: tuple[int, int]) -> str:
    """Returns the message for a file whose size (width, height) differs from the annotations'."""
    return f"{path} is {found[0]}x{found[1]} pixels, the JSON says {expected[0]}x{expected[1]}"


def read_header(data: bytes) -> Header:
    """Reads the header of a picture and checks that a JPEG or PNG is whole.

    Raises:
        ValueError: it is not a picture, or damaged.
        IndexError: it is cut short.
    """
    if data[:2] == b"\xff\xd8":
        return _jpeg_header(data)
    if data[:8] == png.SIGNATURE:
        return _png_header(data)
    with open_picture(data) as picture:
        notes = [f"pictures of the format {picture.format} stored as PNG"]
        notes += [DEEP_NOTE] * is_deep(picture) + [FRAMES_NOTE] * has_frames(picture)
        return Header(picture.format or "", *picture.size, orientation_of(picture), tuple(notes))


def _jpeg_header(data: bytes) -> Header:
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
    notes = () if decodable else ("pictures stored as PNG: TensorFlow cannot read these JPEGs",)
    return Header("jpeg", width, height, 1 if exif is None else orientation_in(exif), notes)


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


def _png_header(data: bytes) -> Header:
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
    width, height = (int.from_bytes(header[place : place + 4], "big") for place in (0, 4))
    notes = (DEEP_NOTE,) if header[8] == _DEEP else ()
    return Header("png", width, height, 1 if exif is None else orientation_in(exif), notes)
