"""Training targets of the reference's records without augmentation, compared with those of the reference."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from geometries import image_info_of

pytestmark = pytest.mark.shared

PICTURES = (139, 1532, 2592, 5037)


@pytest.fixture(scope="module")
def examples(shared: Path, coco_labels: Any) -> list[dict[str, Any]]:
    import tensorflow as tf

    from panoptic_cli.config import load_experiment
    from panoptic_cli.models.panoptic_fpn.targets import PanopticFPNTargets
    from panoptic_cli.pipeline.augmentation import augment
    from panoptic_cli.pipeline.parsing import parse_record
    from panoptic_cli.records import schema
    from panoptic_cli.records.schema import decode_example
    from panoptic_cli.records.tfrecord import read_records

    shard = shared / "conformance" / "tfrecords" / "reference-val-00000-of-00008.tfrecord"
    serialized = list(read_records(shard))[: len(PICTURES)]
    ids = [int(decode_example(record)[schema.IMAGE_SOURCE_ID][0]) for record in serialized]
    assert tuple(ids) == PICTURES

    # No augmentation, and a sample of all anchors.
    plain = "aug_rand_hflip: false, aug_scale_min: 1, aug_scale_max: 1"
    every = "rpn_batch_size_per_im: 1000000, rpn_fg_fraction: 1"
    settings = ["task.model.input_size=[512,512,3]", f"task.train_data.parser={{{plain}, {every}}}"]
    task = load_experiment(settings=settings).task
    targets, parser = PanopticFPNTargets(task, coco_labels), task.train_data.parser

    @tf.function(autograph=False)
    def make(record: tf.Tensor) -> dict[str, Any]:
        picture = augment(
            parse_record(record, targets.preprocessing), tf.constant([0, 0], tf.int64), targets.preprocessing, parser
        )
        return {"images": picture.image, "geometry": picture.resizing.geometry, **targets(picture)}

    return [tf.nest.map_structure(lambda x: x.numpy(), make(tf.constant(r))) for r in serialized]


@pytest.fixture(scope="module")
def stored(
    figures: Callable[[str], dict[str, np.ndarray]], pictures: Callable[[str, str], np.ndarray]
) -> dict[str, np.ndarray]:
    return {**figures("training_targets"), "images_s4": pictures("training_targets", "images_s4")}


def test_pictures_match(examples: list[dict[str, Any]], stored: dict[str, np.ndarray]) -> None:
    for place, example in enumerate(examples):
        np.testing.assert_array_equal(image_info_of(example["geometry"]), stored["image_info"][place])
        # Normalised pictures have values of order 1. The resize and (x - mean) / std are rounded.
        np.testing.assert_allclose(example["images"][::4, ::4], stored["images_s4"][place], atol=2e-5)


def test_anchor_targets_match(examples: list[dict[str, Any]], stored: dict[str, np.ndarray]) -> None:
    positives = 0
    for place, example in enumerate(examples):
        for level in range(2, 7):
            expected = stored[f"rpn_score_targets_{level}"][place]
            np.testing.assert_array_equal(example["rpn_scores"][str(level)], expected)
            np.testing.assert_allclose(
                example["rpn_boxes"][str(level)], stored[f"rpn_box_targets_{level}"][place], atol=1e-5
            )
            positives += int((expected == 1).sum())
    assert positives > 40


def test_ground_truth_matches(examples: list[dict[str, Any]], stored: dict[str, np.ndarray]) -> None:
    for place, example in enumerate(examples):
        np.testing.assert_array_equal(example["gt_boxes"], stored["gt_boxes"][place])
        np.testing.assert_array_equal(example["gt_classes"], stored["gt_classes"][place])
        real = example["gt_classes"] > 0
        assert real.any()
        crops = example["gt_masks"][real] / 255.0
        expected = stored["gt_masks"][place][real].astype(np.float32)
        # The reference crops the resized mask, we crop the original one: edges differ, areas do not.
        assert np.abs(crops - expected).mean() <= 0.02
        assert ((crops > 0.5) == (expected > 0.5)).mean() >= 0.97


def test_semantic_labels_match(examples: list[dict[str, Any]], stored: dict[str, np.ndarray]) -> None:
    for place, example in enumerate(examples):
        np.testing.assert_array_equal(example["semantic_labels"], stored["gt_segmentation_mask"][place, ..., 0])


def test_pictures_prepared_for_inference_match(
    shared: Path, figures: Callable[[str], dict[str, np.ndarray]], pictures: Callable[[str, str], np.ndarray]
) -> None:
    import tensorflow as tf

    from panoptic_cli.images.decoding import decode_image
    from panoptic_cli.pipeline.preprocessing import Preprocessing
    from panoptic_cli.records import schema
    from panoptic_cli.records.schema import decode_example
    from panoptic_cli.records.tfrecord import read_records

    expected = {**figures("forward"), "images": pictures("forward", "images")}
    shard = shared / "conformance" / "tfrecords" / "reference-val-00000-of-00008.tfrecord"
    for place, record in enumerate(list(read_records(shard))[:2]):
        example = decode_example(record)
        assert int(example[schema.IMAGE_SOURCE_ID][0]) == expected["source_id"][place]
        picture = decode_image(tf.constant(bytes(example[schema.IMAGE_ENCODED][0])))
        image, geometry = Preprocessing((512, 512)).prepare(picture)
        np.testing.assert_array_equal(image_info_of(geometry), expected["image_info"][place])
        np.testing.assert_allclose(image, expected["images"][place], atol=2e-5)
