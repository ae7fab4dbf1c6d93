"""Writing and checking PNG files without an imaging library."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
from zlib_ng import zlib_ng

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_ZLIB_HEADER = b"\x78\x01"  # deflate, a window of 32 KB, fastest level
_END_OF_DEFLATE = b"\x03\x00"  # an empty last block
_ADLER_BASE = 65521
_SMALLEST_PIECE = 10  # zeros are joined from pieces of 2^10 bytes and more
_LEVEL = 1


def grey_png(rows: np.ndarray, width: int, bits: int, above: int = 0, below: int = 0) -> bytes:
    """Encodes a greyscale PNG from rows that begin with their filter type.

    It is for rows with runs of equal bytes, on which zlib-ng's deflate for runs takes a quarter of zlib's time. Rows
    of zeros above and below are joined from pieces that were compressed before, so a small mask in a large picture
    costs little.

    Args:
        rows: uint8 [n, 1 + bytes per row], C-contiguous; column 0 is the PNG filter type.
        width: width in pixels.
        bits: bits a sample, 8 or 16.
        above: number of rows of zeros above `rows`.
        below: number of rows of zeros below `rows`.
    """
    header = struct.pack(">IIBBBBB", width, above + len(rows) + below, bits, 0, 0, 0, 0)
    pixels = _deflate(rows, above * rows.shape[1], below * rows.shape[1])
    return SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", pixels) + _chunk(b"IEND", b"")


def _deflate(data: np.ndarray, zeros_before: int, zeros_after: int) -> bytes:
    """Compresses bytes with zeros before and after them as one zlib stream."""
    if zeros_before == zeros_after == 0:
        compressor = _compressor(zlib_ng.MAX_WBITS)
        return bytes(compressor.compress(data.data) + compressor.flush())
    compressor = _compressor(-zlib_ng.MAX_WBITS)
    body = compressor.compress(data.data) + compressor.flush(zlib_ng.Z_FULL_FLUSH)  # ends on a whole byte
    adler = zlib_ng.adler32(data.data, _adler_of_zeros(1, zeros_before))
    checksum = struct.pack(">I", _adler_of_zeros(adler, zeros_after))
    return b"".join((_ZLIB_HEADER, _zeros(zeros_before), body, _zeros(zeros_after), _END_OF_DEFLATE, checksum))


def _compressor(window_bits: int) -> Any:
    # Equal pixels give equal bytes in every process. ISA-L, which is hardly faster, does not keep to that.
    return zlib_ng.compressobj(_LEVEL, zlib_ng.DEFLATED, window_bits, strategy=zlib_ng.Z_RLE)


def _adler_of_zeros(adler: int, count: int) -> int:
    """Returns Adler-32 after `count` more zeros: the sum of bytes stays, the sum of sums grows by it each time."""
    low, high = adler & 0xFFFF, adler >> 16
    return ((high + count * low) % _ADLER_BASE) << 16 | low


def _zeros(count: int) -> bytes:
    """Returns deflate blocks of `count` zeros that end on a whole byte."""
    small = count & ((1 << _SMALLEST_PIECE) - 1)
    pieces = [_piece(small)] if small else []
    pieces += [_piece(1 << bit) for bit in range(_SMALLEST_PIECE, count.bit_length()) if count >> bit & 1]
    return b"".join(pieces)


@cache
def _piece(count: int) -> bytes:
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    return compressor.compress(bytes(count)) + compressor.flush(zlib.Z_FULL_FLUSH)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))


def chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Yields (kind, content) of a PNG file's chunks up to IEND and verifies the checksum of each.

    Raises:
        ValueError: the file is not a PNG, is cut short, or a checksum does not match.
    """
    if data[:8] != SIGNATURE:
        raise ValueError("it is not a PNG")
    view, place, kind = memoryview(data), 8, b""
    while kind != b"IEND":
        if place + 12 > len(data):
            raise ValueError("it is cut short")
        length, kind = int.from_bytes(view[place : place + 4], "big"), bytes(view[place + 4 : place + 8])
        end = place + 8 + length
        if end + 4 > len(data):
            raise ValueError("it is cut short")
        if zlib.crc32(view[place + 4 : end]) != int.from_bytes(view[end : end + 4], "big"):
            raise ValueError(f"the checksum of its {kind.decode('latin-1')} chunk does not match")
        yield kind, view[place + 8 : end]
        place = end + 4


def check_chunks(data: bytes) -> None:
    """Raises ValueError if a PNG is cut short or a checksum does not match, which decoders may accept."""
    for _ in chunks(data):
        pass
