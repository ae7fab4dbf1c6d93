from __future__ import annotations

import io
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask

from panoptic_cli.images import masks


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    high=st.sampled_from([1, 255, 256, 65535]),
    seed=st.integers(0, 1000),
)
def test_decoding_inverts_encoding(shape: tuple[int, int], high: int, seed: int) -> None:
    labels = np.random.default_rng(seed).integers(0, high, shape, endpoint=True)
    labels[0, 0] = high
    encoded = masks.encode_png(labels)
    with Image.open(io.BytesIO(encoded)) as opened:  # Pillow, an independent decoder, checks chunk checksums too
        assert opened.mode == ("L" if high <= 255 else "I;16")
        np.testing.assert_array_equal(np.asarray(opened), labels)
    np.testing.assert_array_equal(masks.decode_png(encoded), labels)


@pytest.mark.parametrize("offset", [0, 1000])
def test_regions_take_little_space_with_8_and_16_bits(offset: int) -> None:
    y, x = np.mgrid[:400, :600]
    labels = (x + y // 3) // 97 + 8 * (y // 130) + offset  # regions with slanted and level edges
    size = len(masks.encode_png(labels))
    assert size < 10_000  # a row has about 7 edges; 240 KB of pixels, 480 KB with 16 bits


@pytest.mark.parametrize("labels", [np.full((2, 2), -1), np.full((2, 2), 65536), np.zeros((0, 3)), np.zeros((2, 2, 3))])
def test_labels_that_do_not_fit_a_png_are_refused(labels: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"fit 16 bits|two-dimensional"):
        masks.encode_png(labels)


def test_places_follow_the_list_and_unlisted_ids_are_returned() -> None:
    ids = np.array([[7, 0], [70000, 9]], np.uint32)
    runs, strangers = masks.segment_runs(ids, [70000, 7])
    assert (runs.paint(np.arange(3)).tolist(), strangers) == ([[2, 0], [1, 0]], [9])
    runs, strangers = masks.segment_runs(ids, [9])
    assert (runs.paint(np.arange(2)).tolist(), strangers) == ([[0, 0], [0, 1]], [7, 70000])


def test_more_than_255_segments() -> None:
    ids = np.arange(1, 301, dtype=np.uint32).reshape(15, 20)
    runs, strangers = masks.segment_runs(ids, list(range(300, 0, -1)))
    assert not strangers
    np.testing.assert_array_equal(runs.paint(np.arange(301)), 301 - ids)


def test_a_rectangle_polygon_covers_its_pixels() -> None:
    mask = masks.rasterize([[2, 1, 6, 1, 6, 4, 2, 4]], 8, 10)
    expected = np.zeros((8, 10), np.uint8)
    expected[1:4, 2:6] = 1
    np.testing.assert_array_equal(mask, expected)
    assert masks.box_of_mask(mask) == (2, 1, 4, 3)


def test_polygons_are_clipped_at_the_edge_and_degenerate_ones_are_empty() -> None:
    assert masks.rasterize([[-5, -5, 4, -5, 4, 3, -5, 3]], 8, 10)[:3, :4].all()
    assert masks.rasterize([[-5.0, -5, 4, -5, 4, 3, -5, 3]], 8, 10).sum() == 12
    assert not masks.rasterize([[1, 1, 5, 5]], 8, 10).any()  # pycocotools alone would draw a box
    assert not masks.rasterize([], 8, 10).any()
    assert masks.rasterize([[-1e9, -1e9, 1e9, -1e9, 1e9, 1e9, -1e9, 1e9]], 8, 10).all()


@pytest.mark.parametrize("seed", range(4))
def test_both_forms_of_run_lengths_are_drawn(seed: int) -> None:
    mask = (np.random.default_rng(seed).random((13, 9)) < 0.4).astype(np.uint8)
    compressed = coco_mask.encode(np.asfortranarray(mask))
    text = {"size": [13, 9], "counts": compressed["counts"].decode()}
    np.testing.assert_array_equal(masks.rasterize(text, 13, 9), mask)
    flat = mask.ravel(order="F")
    edges = [0, *(np.flatnonzero(np.diff(flat)) + 1), flat.size]
    runs = [int(b - a) for a, b in pairwise(edges)]
    counts = [0, *runs] if flat[0] else runs
    np.testing.assert_array_equal(masks.rasterize({"size": [13, 9], "counts": counts}, 13, 9), mask)


@pytest.mark.parametrize(
    "segmentation",
    [
        None,
        5,
        "text",
        [1, 2, 3],
        [[0, 0, 1]],
        [[0, 0, 4, 0, 4, "x"]],
        [[0, 0, 4, 0, float("nan"), 4]],
        [[0, 0, 4, 0, True, 4]],
        {"size": [8, 10]},
        {"size": [10, 8], "counts": [80]},
        {"size": [8, 10], "counts": [79]},
        {"size": [8, 10], "counts": [1000000]},
        {"size": [8, 10], "counts": [-1, 81]},
        {"size": [8, 10], "counts": ["80"]},
        {"size": [8, 10], "counts": "0o0000"},
        {"size": [8, 10], "counts": "\udc80"},
    ],
)
def test_malformed_segmentations_are_value_errors(segmentation: object) -> None:
    with pytest.raises(ValueError, match=r".+"):
        masks.rasterize(segmentation, 8, 10)


def test_an_empty_mask_has_no_box() -> None:
    assert masks.box_of_mask(np.zeros((4, 4), np.uint8)) is None
