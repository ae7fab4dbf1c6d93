"""Panoptic masks as data sets store them: COCO's RGB PNGs, and other files whose ids are clear.

The JSON lists the segment ids of a mask. So of several ways to read a file, the right one finds no other ids.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from panoptic_cli.images.masks import SegmentRuns, segment_runs
from panoptic_cli.images.panoptic_png import MAX_ID, decode_colours, read_segment_ids, rgb_to_ids

_MOST = 65_534  # segments that `segment_runs` can number


@dataclass(frozen=True)
class MaskReading:
    """A mask, read in one way.

    Attributes:
        runs: its pixels; pixels of ids that are not listed are unlabelled.
        strangers: the sorted ids that are in the mask but not listed.
        note: how the file differs from COCO's, in the same words for every mask of that kind; None if it does not.
    """

    runs: SegmentRuns
    strangers: list[int]
    note: str | None = None


def read_mask(encoded: bytes, segment_ids: Sequence[int]) -> MaskReading:
    """Decodes a mask.

    Args:
        encoded: a picture in a lossless format. The ids are its colours (red + 256 green + 65536 blue, or with red and
            blue exchanged), its grey values or the places in its palette; alpha is dropped.
        segment_ids: the ids that the JSON lists: distinct, 1..2^24-1, fewer than 65,535.

    Returns:
        The first reading without strangers; if there is none, the usual one.

    Raises:
        ValueError: it is not a picture, damaged, or a JPEG; TooLargeError if it is too large.
    """
    usual: MaskReading | None = None
    for note, ids in _readings(encoded):
        runs, strangers = segment_runs(ids, segment_ids)
        if not strangers:
            return MaskReading(runs, strangers, note)
        usual = usual or MaskReading(runs, strangers, note)
    assert usual is not None, "every mask has a reading"
    return usual


def read_ids(path: Path, segment_ids: Sequence[int]) -> tuple[np.ndarray, str | None]:
    """Reads the ids of a mask file.

    Args:
        path: the file.
        segment_ids: the ids that the JSON lists; they may be invalid.

    Returns:
        uint32 [height, width], and the note of `read_mask`. Without a reading that fits, the usual one.

    Raises:
        DataError: the file is missing or cannot be read.
    """
    usual = read_segment_ids(path)
    listed = sorted({i for i in segment_ids if 0 < i <= MAX_ID})
    if len(listed) > _MOST:
        return usual, None
    mask = read_mask(path.read_bytes(), listed)
    if mask.strangers:
        return usual, None
    return mask.runs.paint(np.array([0, *listed], np.uint32)), mask.note


def _readings(encoded: bytes) -> Iterator[tuple[str | None, np.ndarray]]:
    """Yields ids, uint32 [height, width], with how the file differs from COCO's masks; the usual reading first."""
    colours = decode_colours(encoded)
    if colours.rgb is not None:
        yield None, rgb_to_ids(colours.rgb)
    if colours.values is not None:
        kind = "a palette, whose places" if colours.rgb is not None else "grey values, which"
        yield f"masks with {kind} are the ids", colours.values
    if colours.rgb is not None:
        yield "masks with red and blue exchanged", rgb_to_ids(colours.rgb[..., ::-1])
        if (colours.rgb == colours.rgb[..., :1]).all():
            yield "masks with equal channels, each of which is the id", colours.rgb[..., 0].astype(np.uint32)
