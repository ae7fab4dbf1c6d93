"""Counting the pixels that each pair of labels of two maps shares, without sorting the pixels.

Panoptic maps consist of long runs of one label: two 640x480 maps have a few thousand joint runs for 307,200 pixels.
Pixels are only compared with their neighbours; all other work is done on the runs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from panoptic_cli.images.panoptic_png import MAX_ID

_BLOCK = 8  # pixels: 24 bytes, three machine words
_LONGEST = 2**14  # pixels; longer runs are counted in parts, so that two ids and a length fit into 63 bits


@dataclass(frozen=True)
class Overlaps:
    """The number of pixels that pairs of labels of two maps share.

    Attributes:
        gt_ids: int64 [P], id in the first map.
        pred_ids: int64 [P], id in the second map. Pairs are unique and ascending.
        pixels: int64 [P], at least 1.
    """

    gt_ids: np.ndarray
    pred_ids: np.ndarray
    pixels: np.ndarray


def overlaps(gt_map: np.ndarray, pred_map: np.ndarray) -> Overlaps:
    """Counts the joint pixels of two integer maps [H, W] of the same shape, ids 0 .. MAX_ID."""
    gt, pred = gt_map.reshape(-1), pred_map.reshape(-1)
    starts = np.union1d(run_starts(gt, pred), np.arange(0, gt.size, _LONGEST))
    return _summed(gt[starts], pred[starts], _lengths(starts, gt.size))


def overlaps_rgb(gt_rgb: np.ndarray, pred_rgb: np.ndarray) -> Overlaps:
    """Counts the joint pixels of two RGB-encoded maps, uint8 [H, W, 3] of the same shape, ids r + 256 g + 65536 b.

    Most blocks of eight pixels equal the block before them in both maps. No run starts in such a block, unless
    the block before it has two colours, so these blocks are not compared pixel by pixel.
    """
    gt, pred = (np.ascontiguousarray(rgb).reshape(-1, 3) for rgb in (gt_rgb, pred_rgb))
    blocks = _blocks_that_differ(gt, pred)
    starts, gt_ids, pred_ids = _runs_of_blocks(gt, pred, np.flatnonzero(blocks))
    inner = starts[(starts & (_BLOCK - 1)) > 0] >> 3  # blocks of two or more colours
    repeated = inner[~blocks[np.minimum(inner + 1, len(blocks) - 1)]]
    if repeated.size:
        # Runs that are found twice or cut in two do not change the sum.
        more = _runs_of_blocks(gt, pred, _with_equals(np.unique(repeated), blocks))
        order = np.argsort(np.concatenate((starts, more[0])), kind="stable")
        starts, gt_ids, pred_ids = (
            np.concatenate(pair)[order] for pair in zip((starts, gt_ids, pred_ids), more, strict=True)
        )
    return _summed(gt_ids, pred_ids, _lengths(starts, len(gt)))


def run_starts(*maps: np.ndarray) -> np.ndarray:
    """Returns int64 [R], the places in flat maps of the same size where a run starts in any of them."""
    if not maps[0].size:
        return np.zeros(0, np.int64)
    changed = maps[0][1:] != maps[0][:-1]
    for other in maps[1:]:
        changed |= other[1:] != other[:-1]
    return np.concatenate(([0], np.flatnonzero(changed) + 1))


def _lengths(starts: np.ndarray, end: int) -> np.ndarray:
    lengths = np.empty_like(starts)
    np.subtract(starts[1:], starts[:-1], out=lengths[:-1])
    lengths[-1:] = end - starts[-1:]
    return lengths


def _with_equals(chosen: np.ndarray, blocks: np.ndarray) -> np.ndarray:
    """Returns int64 [K], ascending: the chosen blocks, each with the equal blocks that follow it."""
    found = []
    for block in chosen.tolist():
        found.append(block)
        while block + 1 < len(blocks) and not blocks[block + 1]:
            block += 1
            found.append(block)
    return np.array(found)


def _blocks_that_differ(gt: np.ndarray, pred: np.ndarray) -> np.ndarray:
    """Returns bool [blocks], whether each differs from the one before; True for the first of a long run or if cut."""
    whole = len(gt) // _BLOCK
    differ = np.ones(-(-len(gt) // _BLOCK), bool)
    if whole > 1:
        a, b = (rgb[: whole * _BLOCK].reshape(-1).view(np.uint64) for rgb in (gt, pred))
        changed = a[3:] != a[:-3]
        changed |= b[3:] != b[:-3]
        differ[1:whole] = changed[0::3] | changed[1::3] | changed[2::3]
    differ[:: _LONGEST // _BLOCK] = True
    return differ


def _runs_of_blocks(gt: np.ndarray, pred: np.ndarray, blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns int64 [R] each: first pixel and both ids of the joint runs, given the blocks in which they start."""
    a, b = _ids_of_blocks(gt, blocks), _ids_of_blocks(pred, blocks)
    first = np.ones(len(a), bool)
    np.not_equal(a[1:], a[:-1], out=first[1:])
    first[1:] |= b[1:] != b[:-1]
    first[::_BLOCK] |= blocks & (_LONGEST // _BLOCK - 1) == 0
    places = np.flatnonzero(first)
    return (blocks[places >> 3] << 3) + (places & (_BLOCK - 1)), a[places], b[places]


def _ids_of_blocks(rgb: np.ndarray, blocks: np.ndarray) -> np.ndarray:
    """Returns uint32 [k], the ids of the pixels in blocks; the last block may be cut.

    Args:
        rgb: uint8 [pixels, 3].
        blocks: int64 [K], ascending.
    """
    whole = len(rgb) // _BLOCK
    words = rgb[: whole * _BLOCK].reshape(-1).view(np.uint64).reshape(-1, 3)
    is_cut = blocks.size > 0 and blocks[-1] == whole
    inside, cut = (blocks[:-1], rgb[whole * _BLOCK :].reshape(-1)) if is_cut else (blocks, rgb[:0].reshape(-1))
    size = 3 * _BLOCK * len(inside)
    packed = np.zeros(size + cut.size + 1, np.uint8)
    words.take(inside, axis=0, out=packed[:size].view(np.uint64).reshape(-1, 3), mode="clip")  # other modes copy
    packed[size:-1] = cut
    # Reads four bytes from every third one on, and masks out the fourth, which belongs to the next pixel.
    return np.ndarray(len(packed) // 3, "<u4", packed, strides=(3,)) & 0xFFFFFF


def _summed(gt_ids: np.ndarray, pred_ids: np.ndarray, lengths: np.ndarray) -> Overlaps:
    """Adds up the runs [R] of each pair of ids; no run is longer than _LONGEST."""
    # Sorting plain numbers takes a fifth of the time of sorting by keys.
    packed = np.sort(gt_ids.astype(np.int64) << 39 | pred_ids.astype(np.int64) << 15 | lengths)
    pairs = packed >> 15
    groups = run_starts(pairs)
    pixels = np.add.reduceat(packed & 0x7FFF, groups) if groups.size else groups
    return Overlaps(pairs[groups] >> 24, pairs[groups] & MAX_ID, pixels)
