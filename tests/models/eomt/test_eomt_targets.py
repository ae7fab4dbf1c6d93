"""The training targets of EoMT: segments of our records and of the reference's, crowds, stuff, crops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from panoptic_cli.categories import Category, CategoryTable
from panoptic_cli.config.eomt import Eomt
from panoptic_cli.config.schema import Model, Parser, Task
from panoptic_cli.models.eomt.targets import EomtTargets
from panoptic_cli.pipeline.augmentation import AugmentedPicture, augment
from panoptic_cli.pipeline.parsing import parse_record
from panoptic_cli.records import schema

TABLE = CategoryTable(
    (
        Category(id=7, name="cat", isthing=True, color=(1, 2, 3)),
        Category(id=3, name="sky", isthing=False, color=(4, 5, 6)),
        Category(id=9, name="dog", isthing=True, color=(7, 8, 9)),
    )
)
SIZE = 32


def png(values: np.ndarray) -> bytes:
    return bytes(tf.io.encode_png(tf.constant(values[..., None], tf.uint8)).numpy())


def record(segments: np.ndarray, categories: list[int], crowds: list[int] | None = None, **extra: Any) -> bytes:
    """A record with a segment map: places 1, 2, ... of `categories`."""
    height, width = segments.shape
    image = np.dstack([segments * 20] * 3).astype(np.uint8)
    features: dict[str, Any] = {
        schema.IMAGE_ENCODED: bytes(tf.io.encode_png(tf.constant(image)).numpy()),
        schema.SEGMENT_MASK: png(segments),
        schema.SEGMENT_CATEGORY: np.array(categories, np.int64),
        schema.SEGMENT_IS_CROWD: np.array(crowds or [0] * len(categories), np.int64),
        schema.IMAGE_HEIGHT: height,
        schema.IMAGE_WIDTH: width,
    }
    return schema.encode_example({k: v for k, v in (features | extra).items() if v is not None})


def targets_of(most: int = 6) -> EomtTargets:
    config = Eomt(image_size=SIZE, patch_size=8, hidden_size=16, num_attention_heads=2, num_hidden_layers=4)
    task = Task(model=Model(type="eomt", eomt=config))
    parser = task.train_data.parser.model_copy(update={"max_num_instances": most})
    data = task.train_data.model_copy(update={"parser": parser})
    return EomtTargets(task.model_copy(update={"train_data": data}), TABLE)


def picture_of(
    serialized: bytes, targets: EomtTargets, parser: Parser | None = None, seed: int = 0
) -> AugmentedPicture:
    parsed = parse_record(tf.constant(serialized), targets.preprocessing)
    return augment(parsed, tf.constant([0, seed], tf.int64), targets.preprocessing, parser or Parser(), targets.accepts)


def masks(found: dict[str, Any]) -> set[tuple[int, frozenset[int]]]:
    """Class and pixels of each target."""
    numbers, classes = found["segment_map"].numpy(), found["segment_classes"].numpy()
    assert numbers.max() == np.count_nonzero(classes >= 0)
    return {(int(c), frozenset(np.flatnonzero(numbers == n))) for n, c in enumerate(classes, start=1) if c >= 0}


def quarters() -> np.ndarray:
    """Four quarters, 1 to 4, and a row without a label."""
    segments = np.kron(np.array([[1, 2], [3, 4]]), np.ones((SIZE // 2, SIZE // 2), int))
    segments[0] = 0
    return segments


def pixels(segments: np.ndarray, *places: int) -> frozenset[int]:
    return frozenset(np.flatnonzero(np.isin(segments, places)))


def test_every_segment_is_a_target_and_stuff_of_a_category_is_one() -> None:
    segments, targets = quarters(), targets_of()
    found = targets(picture_of(record(segments, [7, 3, 7, 3]), targets))
    assert masks(found) == {(0, pixels(segments, 1)), (1, pixels(segments, 2, 4)), (0, pixels(segments, 3))}


def test_crowds_and_strange_categories_are_none() -> None:
    segments, targets = quarters(), targets_of()
    found = targets(picture_of(record(segments, [7, 3, 9, 100], [1, 0, 0, 0]), targets))
    assert masks(found) == {(1, pixels(segments, 2)), (2, pixels(segments, 3))}


def test_of_too_many_segments_the_largest_are_taken() -> None:
    segments, targets = quarters(), targets_of(most=2)
    segments[:, :4] = 0
    found = targets(picture_of(record(segments, [7, 9, 7, 9]), targets))
    assert {pixels(segments, 2), pixels(segments, 4)} == {place for _, place in masks(found)}


def test_the_records_of_the_model_garden_give_the_same() -> None:
    segments, targets = quarters(), targets_of()
    categories = np.array([0, 7, 3, 7, 9])[segments]
    instances = np.array([0, 1, 0, 3, 4])[segments]
    theirs: dict[str, Any] = {
        schema.SEGMENT_MASK: None,
        schema.SEGMENT_CATEGORY: None,
        schema.SEGMENT_IS_CROWD: None,
        schema.CATEGORY_MASK: png(categories),
        schema.INSTANCE_MASK: png(instances),
    }
    ours = targets(picture_of(record(segments, [7, 3, 7, 9]), targets))
    found = targets(picture_of(record(segments, [], **theirs), targets))
    assert masks(found) == masks(ours)


def test_a_record_without_panoptic_masks_is_refused() -> None:
    segments, targets = quarters(), targets_of()
    semantic: dict[str, Any] = {
        schema.SEGMENT_MASK: None,
        schema.SEGMENT_CATEGORY: None,
        schema.SEMANTIC_MASK: png(segments),
    }
    with pytest.raises(tf.errors.InvalidArgumentError, match="no panoptic masks"):
        targets(picture_of(record(segments, [], **semantic), targets))


@pytest.mark.parametrize("seed", range(4))
def test_masks_move_with_the_picture(seed: int) -> None:
    """The picture shows the number of each segment, so that it can be compared with the map."""
    segments, targets = quarters(), targets_of()
    parser = Parser(aug_rand_hflip=True, aug_scale_min=1.0, aug_scale_max=3.0)
    picture = picture_of(record(segments, [7, 9, 7, 9]), targets, parser, seed)
    found = targets(picture)
    preprocessing = targets.preprocessing
    levels = (picture.image.numpy() * preprocessing.stddev + preprocessing.mean) * 255 / 20
    shown = np.rint(levels[..., 0])
    numbers, classes = found["segment_map"].numpy(), found["segment_classes"].numpy()
    assert (classes[numbers[numbers > 0] - 1] >= 0).all()
    for number in range(1, numbers.max() + 1):
        values = shown[numbers == number]
        if len(values) < 60:  # a strip of blended pixels
            continue
        middle = np.bincount(values.astype(int)).argmax()
        # Edges are blended in the picture, and cut in the map.
        assert np.mean(values == middle) > 0.7
        assert classes[number - 1] == (0 if middle in (1, 3) else 2)


def test_a_crop_without_a_segment_is_drawn_again() -> None:
    segments, targets = np.zeros((SIZE, SIZE), int), targets_of()
    segments[:6, :6] = 1
    parser = Parser(aug_scale_min=3.0, aug_scale_max=3.1, aug_rand_hflip=True)
    parsed = parse_record(tf.constant(record(segments, [7])), targets.preprocessing)

    @tf.function(autograph=False)
    def drawn(seed: tf.Tensor, again: bool) -> dict[str, tf.Tensor]:
        accepts = targets.accepts if again else None
        return targets(augment(parsed, tf.stack([0, seed]), targets.preprocessing, parser, accepts))

    missed = 0
    for seed in tf.range(30, dtype=tf.int64):
        first, accepted = masks(drawn(seed, False)), masks(drawn(seed, True))
        assert accepted
        missed += not first
        if first:  # nothing changes where the first crop can be used
            assert first == accepted
    assert missed > 10
