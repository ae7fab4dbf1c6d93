from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from panoptic_cli.categories import CategoryTable
from panoptic_cli.errors import DataError
from panoptic_cli.evaluation.groundtruth import GroundTruth, segments_from_maps
from panoptic_cli.images.masks import encode_png
from panoptic_cli.records import schema

TABLE = CategoryTable.from_list(
    [{"id": 5, "name": "cat", "isthing": 1}, {"id": 190, "name": "sky", "isthing": 0}], "test"
)


def test_segments_are_the_pairs_of_category_and_instance() -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        category = np.repeat(rng.choice([0, 190], (20, 1)), 30, axis=1)
        instance = np.zeros((20, 30), np.int32)
        for number in range(1, rng.integers(1, 6)):
            y, x = rng.integers(0, 20), rng.integers(0, 30)
            place = np.s_[y : y + rng.integers(1, 12), x : x + rng.integers(1, 15)]
            category[place], instance[place] = 5, number
        id_map, segments = segments_from_maps(category, instance, TABLE)
        assert [s.id for s in segments] == list(range(1, len(segments) + 1))
        np.testing.assert_array_equal(id_map == 0, category == 0)
        pairs = set()
        for segment in segments:
            mask = id_map == segment.id
            assert segment.area
            assert mask.sum() == segment.area
            assert set(category[mask].tolist()) == {segment.category_id}
            assert len(set(instance[mask].tolist())) == 1
            pairs.add((segment.category_id, int(instance[mask][0])))
        assert len(pairs) == len(segments)
        assert pairs == set(zip(category[category > 0].tolist(), instance[category > 0].tolist(), strict=True))


def test_categories_that_do_not_exist_become_void() -> None:
    category = np.array([[5, 93, 93, 190], [5, 0, 77, 190]])
    instance = np.array([[1, 0, 0, 0], [1, 0, 4, 0]])
    id_map, segments = segments_from_maps(category, instance, TABLE)
    assert [(s.id, s.category_id, s.area) for s in segments] == [(1, 5, 2), (2, 190, 2)]
    np.testing.assert_array_equal(id_map, [[1, 0, 0, 2], [1, 0, 0, 2]])


def test_all_void_has_no_segments() -> None:
    void = np.zeros((4, 5), np.int32)
    id_map, segments = segments_from_maps(void, void, TABLE)
    assert segments == []
    assert not id_map.any()


def test_a_record_without_panoptic_masks_is_named() -> None:
    record = schema.encode_example({schema.IMAGE_SOURCE_ID: [b"7"]})
    with pytest.raises(DataError, match="image 7 has no usable panoptic ground truth"):
        GroundTruth.from_record(record, TABLE)


EDGES = (schema.OBJECT_XMIN, schema.OBJECT_YMIN, schema.OBJECT_XMAX, schema.OBJECT_YMAX)


def _record_of_one_object(
    categories: np.ndarray, edges: tuple[float, ...], more: dict[str, Any] | None = None
) -> bytes:
    """Returns a record of a category mask whose pixels of category 5 are an object with these edges, 0..1."""
    height, width = categories.shape
    mask = encode_png((categories == 5).astype(np.uint8))
    features: dict[str, Any] = {
        schema.IMAGE_SOURCE_ID: [b"7"],
        schema.IMAGE_HEIGHT: np.array([height]),
        schema.IMAGE_WIDTH: np.array([width]),
        schema.CATEGORY_MASK: [encode_png(categories)],
        schema.INSTANCE_MASK: [mask],
        schema.OBJECT_LABEL: np.array([5]),
        schema.OBJECT_MASK: [mask],
        **dict(zip(EDGES, (np.array([value], np.float32) for value in edges), strict=True)),
    }
    return schema.encode_example(features | (more or {}))


def test_objects_without_crowd_flags_and_areas_are_plain_objects() -> None:
    categories = np.array([[190, 5, 5], [190, 5, 190]], np.uint8)
    (found,) = GroundTruth.from_record(_record_of_one_object(categories, (1 / 3, 0, 1, 1)), TABLE).objects
    assert (found["category_id"], found["iscrowd"], found["area"]) == (5, 0, 3.0)
    assert found["bbox"] == pytest.approx([1, 0, 2, 2], rel=1e-6)


@pytest.mark.parametrize(("stated", "counted"), [(1500.0, False), (1.0, True), (0.0, True), (90_000.0, True)])
def test_an_area_of_another_class_of_size_is_counted(stated: float, counted: bool) -> None:
    categories = np.zeros((50, 50), np.uint8)
    categories[:40, :40] = 5
    record = _record_of_one_object(categories, (0, 0, 0.8, 0.8), {schema.OBJECT_AREA: np.array([stated], np.float32)})
    truth = GroundTruth.from_record(record, TABLE, categories={5: 190})
    assert truth.recounted == counted
    assert truth.objects[0]["area"] == (1600.0 if counted else stated)
    assert [s.category_id for s in truth.segments] == [190]
    assert truth.objects[0]["category_id"] == 190
