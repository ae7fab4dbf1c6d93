"""The rule of overlaps, against a slow implementation that looks at one pixel at a time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from panoptic_cli.categories import Category, CategoryTable
from panoptic_cli.composition.painting import Layer, Overlaps, Painting, paint, segment_ids
from panoptic_cli.images.masks import crop

CAR, PERSON, ROAD, SKY = 3, 1, 8, 5
TABLE = CategoryTable(
    (
        Category(CAR, "car", True, (0, 0, 0)),  # a colour that would be id 0
        Category(PERSON, "person", True, (200, 20, 20)),
        Category(ROAD, "road", False, (90, 90, 90)),
        Category(SKY, "sky", False, (90, 90, 90)),
    )
)
HEIGHT, WIDTH = 6, 7


def _layer(number: int, category: int, is_crowd: bool, bits: int) -> Layer | None:
    pixels = np.array([bits >> i & 1 for i in range(HEIGHT * WIDTH)], np.uint8).reshape(HEIGHT, WIDTH)
    mask = crop(pixels)
    return None if mask is None else Layer(number, category, is_crowd, mask)


_BITS = st.integers(0, (1 << HEIGHT * WIDTH) - 1)
_ANNOTATIONS = st.tuples(st.sampled_from([CAR, PERSON, ROAD, SKY]), st.booleans(), _BITS, _BITS)


def _owner(layer: Layer) -> tuple[int, bool, int | None]:
    """Returns what a pixel of the layer belongs to: category, crowd, and the annotation of a single thing."""
    isthing = TABLE.by_id[layer.category_id].isthing
    is_crowd = layer.is_crowd and isthing
    return layer.category_id, is_crowd, layer.name if isthing and not is_crowd else None


def _owner_at(layers: list[Layer], row: int, column: int, overlaps: Overlaps) -> tuple[int, bool, int | None] | None:
    best = None
    for place, layer in enumerate(layers):
        if not layer.mask.whole()[row, column]:
            continue
        category, is_crowd, _ = _owner(layer)
        rank = ("stuff", "crowd", "thing").index(
            "crowd" if is_crowd else "thing" if TABLE.by_id[category].isthing else "stuff"
        )
        area = int(layer.mask.whole().sum())
        key = (rank, -area if overlaps == "smaller-on-top" else 0, place)
        if best is None or key > best[0]:
            best = key, _owner(layer)
    return None if best is None else best[1]


@given(
    annotations=st.lists(_ANNOTATIONS, max_size=6),
    overlaps=st.sampled_from(["smaller-on-top", "later-on-top"]),
)
def test_every_pixel_belongs_to_the_topmost_annotation(
    annotations: list[tuple[int, bool, int, int]], overlaps: Overlaps
) -> None:
    # The conjunction of two random masks covers a quarter of the pixels, so fewer things are hidden wholly.
    made = [_layer(i, category, crowd, a & b) for i, (category, crowd, a, b) in enumerate(annotations)]
    layers = [layer for layer in made if layer is not None]
    painting = paint(TABLE, (HEIGHT, WIDTH), layers, overlaps=overlaps)
    owners: dict[int, tuple[int, bool, int | None] | None] = {0: None}
    for row in range(HEIGHT):
        for column in range(WIDTH):
            expected = _owner_at(layers, row, column, overlaps)
            identifier = int(painting.ids[row, column])
            assert owners.setdefault(identifier, expected) == expected
    assert len(set(owners.values())) == len(owners)  # nothing is in two segments
    _check_segments(painting, owners)
    _check_hidden(painting, layers, {owner: identifier for identifier, owner in owners.items()})


def _check_segments(painting: Painting, owners: dict[int, tuple[int, bool, int | None] | None]) -> None:
    assert {s["id"] for s in painting.segments} == owners.keys() - {0}
    for segment in painting.segments:
        owner = owners[segment["id"]]
        assert owner is not None
        assert (segment["category_id"], segment["iscrowd"]) == owner[:2]
        rows, columns = np.nonzero(painting.ids == segment["id"])
        x, y, width, height = segment["bbox"]
        assert segment["area"] == len(rows)
        assert (x, y) == (columns.min(), rows.min())
        assert (x + width, y + height) == (columns.max() + 1, rows.max() + 1)


def _check_hidden(
    painting: Painting, layers: list[Layer], identifiers: dict[tuple[int, bool, int | None] | None, int]
) -> None:
    expected = {}
    for layer in layers:
        if TABLE.by_id[layer.category_id].isthing:
            seen = painting.ids == identifiers.get(_owner(layer), -1)
            pixels = int(layer.mask.whole().sum())
            hidden = pixels - int((seen & (layer.mask.whole() == 1)).sum())
            if hidden:
                expected[layer.name] = (pixels, hidden)
    assert {h.layer.name: (h.pixels, h.hidden) for h in painting.hidden} == expected


def test_semantic_regions_lie_below_and_join_the_stuff_of_their_category() -> None:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[:2] = 1
    sky, car = crop(mask), crop(np.eye(HEIGHT, WIDTH, dtype=np.uint8))
    assert sky is not None
    assert car is not None
    semantic = np.full((HEIGHT, WIDTH), ROAD)
    semantic[:, 0] = SKY
    semantic[-1] = 0
    layers = [Layer("a", CAR, False, car), Layer("b", SKY, False, sky)]
    painting = paint(TABLE, (HEIGHT, WIDTH), layers, semantic)
    expected = semantic.copy()
    expected[:2] = SKY
    expected[np.eye(HEIGHT, WIDTH, dtype=bool)] = CAR
    category = {0: 0} | {s["id"]: s["category_id"] for s in painting.segments}
    np.testing.assert_array_equal(np.vectorize(category.get)(painting.ids), expected)
    assert [s["category_id"] for s in painting.segments] == [CAR, SKY, ROAD]
    assert painting.hidden == []


@pytest.mark.parametrize("color", [(0, 0, 0), (255, 255, 255), (10, 200, 30)])
def test_ids_are_distinct_and_close_to_the_colours(color: tuple[int, int, int]) -> None:
    ids = np.array(segment_ids([color] * 300))
    assert len(set(ids.tolist()) - {0}) == 300
    assert 0 < ids.min() <= ids.max() < 1 << 24
    channels = np.stack([ids & 255, ids >> 8 & 255, ids >> 16], axis=-1)
    assert np.abs(channels - np.array(color)).max() < 80  # the nearby colours suffice for 300 segments
