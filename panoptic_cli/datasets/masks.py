"""Label pictures: PNG encoding and decoding, COCO's panoptic ids, polygons and run lengths as pixels."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_MAX_ID = 1 << 24  # panoptic ids are three bytes


def encode_png(labels: np.ndarray) -> bytes:
    """Encodes a label picture as a single-channel PNG, 8 bits deep when all values are <= 255, otherwise 16.

    Label pictures are runs of equal values, so every row is stored unfiltered and deflated with run-length
    matching only. That is two to four times as fast as Pillow's encoder, which tries all filters, and files
    stay as small.

    Args:
        labels: [height, width], any integer or boolean dtype, values 0..65535.

    Raises:
        ValueError: no pixels, not two-dimensional, or values outside 0..65535.
    """
    if labels.ndim != 2 or labels.size == 0:
        raise ValueError(f"a label picture is two-dimensional and not empty, not {labels.shape}")
    if labels.dtype == np.bool_:
        labels = labels.view(np.uint8)
    if labels.dtype != np.uint8 and (labels.min() < 0 or labels.max() > 65535):
        raise ValueError(f"labels {labels.min()}..{labels.max()} do not fit 16 bits")
    wide = labels.dtype != np.uint8 and labels.max() > 255
    height, width = labels.shape
    row_bytes = width * (2 if wide else 1)
    rows = np.zeros((height, 1 + row_bytes), np.uint8)  # column 0: filter type 0 (none)
    rows[:, 1:] = labels.astype(">u2").view(np.uint8) if wide else labels
    compressor = zlib.compressobj(1, zlib.DEFLATED, 15, 9, zlib.Z_RLE)
    pixels = compressor.compress(rows.data) + compressor.flush()
    header = struct.pack(">IIBBBBB", width, height, 16 if wide else 8, 0, 0, 0, 0)
    return _SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", pixels) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))


def decode_png(data: bytes) -> np.ndarray:
    """Decodes a single-channel PNG.

    Returns:
        int32 [height, width].

    Raises:
        ValueError: the bytes are no picture, are cut short, or have several channels.
    """
    pixels = _open(data)
    if pixels.ndim != 2:
        raise ValueError(f"it has {pixels.shape[-1]} channels in place of one")
    return pixels.astype(np.int32)


def decode_panoptic_png(data: bytes) -> np.ndarray:
    """Decodes a COCO panoptic PNG: id = red + 256 * green + 65536 * blue.

    Returns:
        uint32 [height, width] of segment ids, 0 where nothing is labelled.

    Raises:
        ValueError: the bytes are no picture, are cut short, or do not have three channels.
    """
    pixels = _open(data)
    if pixels.ndim != 3 or pixels.shape[-1] < 3 or pixels.dtype != np.uint8:
        raise ValueError("it is not an RGB picture with 8 bits a channel")
    # 32-bit sums: bytes times 256 would wrap around in the pictures' own dtype.
    ids = pixels[..., 2].astype(np.uint32)
    ids <<= 8
    ids |= pixels[..., 1]
    ids <<= 8
    ids |= pixels[..., 0]
    return ids


def encode_panoptic_png(ids: np.ndarray) -> bytes:
    """Encodes segment ids, [height, width] in 0..2^24-1, as a COCO panoptic PNG."""
    channels = [(ids >> shift & 255).astype(np.uint8) for shift in (0, 8, 16)]
    stream = io.BytesIO()
    Image.fromarray(np.stack(channels, axis=-1)).save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def _open(data: bytes) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(data)) as picture:
            # A palette would give places in it in place of colours.
            return np.asarray(picture.convert("RGB") if picture.mode == "P" else picture)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"it cannot be decoded ({error})") from None


@cache
def _place_table() -> np.ndarray:
    return np.zeros(_MAX_ID, np.uint16)  # 32 MB, of which only the touched pages take memory


def segment_places(ids: np.ndarray, segment_ids: Sequence[int]) -> tuple[np.ndarray, list[int]]:
    """Replaces segment ids by the 1-based places of the segments.

    Args:
        ids: uint32 [height, width], as decode_panoptic_png returns them.
        segment_ids: distinct, 1..2^24-1, fewer than 65,535.

    Returns:
        uint16 [height, width]: the 1-based place in `segment_ids`, 0 where nothing is labelled; and the ids,
        sorted, that are in the picture but not in the list (their pixels are 0).
    """
    table = _place_table()
    keys = np.asarray(segment_ids, np.int64)
    try:
        table[0] = 1
        table[keys] = np.arange(2, len(keys) + 2, dtype=np.uint16)
        places = table[ids]
    finally:
        table[keys] = 0
    unknown = places == 0
    strangers = np.unique(ids[unknown]).tolist() if unknown.any() else []
    places[unknown] = 1
    places -= 1
    return places, strangers


def rasterize(segmentation: Any, height: int, width: int) -> np.ndarray:
    """Draws a COCO segmentation.

    Args:
        segmentation: a list of polygons [x0, y0, x1, y1, ...] in pixels, or a run-length object
            {"size": [height, width], "counts": list or compressed string}.
        height: of the picture.
        width: of the picture.

    Returns:
        uint8 [height, width] of 0 and 1. Polygons outside the picture are cut at its edge.

    Raises:
        ValueError: the segmentation is none of the forms, or its size is not the picture's.
    """
    if isinstance(segmentation, dict):
        counts, size = segmentation.get("counts"), segmentation.get("size")
        if not isinstance(size, list) or size != [height, width]:
            raise ValueError(f"the run-length mask has size {size} in a picture of {[height, width]}")
        if isinstance(counts, list):
            # Runs that do not sum to the picture would write past the end of the mask in C.
            if not _only(counts, int) or min(counts, default=-1) < 0 or sum(counts) != height * width:
                raise ValueError("the run lengths do not add up to the picture's size")
            rle = coco_mask.frPyObjects(segmentation, height, width)
        elif isinstance(counts, str | bytes):
            rle = {"size": size, "counts": counts.encode() if isinstance(counts, str) else counts}
            if _compressed_sum(rle["counts"]) != height * width:
                raise ValueError("the run lengths do not add up to the picture's size")
        else:
            raise ValueError("the run-length mask has no counts")
        return np.asarray(coco_mask.decode(rle))
    if not isinstance(segmentation, list):
        raise ValueError("segmentation is neither a list of polygons nor a run-length object")
    polygons = []
    for polygon in segmentation:
        if not isinstance(polygon, list) or len(polygon) % 2:
            raise ValueError("a polygon is not a list of x, y pairs")
        coordinates = np.asarray(polygon, np.float64) if _only(polygon, int, float) else None
        if coordinates is None or not np.isfinite(coordinates).all():
            raise ValueError("a polygon has coordinates that are not finite numbers")
        if len(polygon) >= 6:  # fewer than three corners have no area; pycocotools takes four numbers for a box
            # pycocotools walks along every edge: far-off corners would take its time and memory.
            limit = 16.0 * max(height, width)
            polygons.append(np.clip(coordinates, -limit, limit).tolist())
    if not polygons:
        return np.zeros((height, width), np.uint8)
    return np.asarray(coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))))


def _only(values: list[Any], *types: type) -> bool:
    """Whether all values are of exactly these types; JSON has no subclasses, and a bool is no number."""
    return set(map(type, values)) <= set(types)


def _compressed_sum(counts: bytes) -> int:
    """Sums the runs of COCO's compressed string: 5 bits a character, differences to the run two before."""
    runs: list[int] = []
    value = shift = 0
    for character in counts:
        chunk = character - 48
        value |= (chunk & 31) << shift
        shift += 5
        if chunk & 32:
            continue
        if chunk & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    return sum(runs) if shift == 0 and all(r >= 0 for r in runs) else -1


def box_of_mask(mask: np.ndarray) -> tuple[int, int, int, int] | None:
    """Returns (x, y, width, height) of the pixels that are not 0, or None when there are none."""
    rows = np.flatnonzero(mask.any(axis=1))
    if rows.size == 0:
        return None
    columns = np.flatnonzero(mask[rows[0] : rows[-1] + 1].any(axis=0))
    return (
        int(columns[0]),
        int(rows[0]),
        int(columns[-1] - columns[0] + 1),
        int(rows[-1] - rows[0] + 1),
    )
