from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from panoptic_cli.config.schema import DetectionGenerator
from panoptic_cli.models.panoptic_fpn.detection import detect


@pytest.mark.parametrize(("top_k", "kept"), [(3, [0, 2]), (2, [0]), (1, [0])])
def test_only_the_best_of_a_class_are_looked_at(top_k: int, kept: list[int]) -> None:
    # The second proposal lies on the first one; the third, apart, is looked at only where three are.
    proposals = np.array([[0, 0, 10, 10], [0, 0, 10, 10], [20, 20, 30, 30]], np.float32)
    logits = np.array([[0, 3], [0, 2], [0, 1]], np.float32)  # background and one class
    config = DetectionGenerator(pre_nms_top_k=top_k, max_num_detections=5)
    found = detect(
        tf.constant(logits[None]),
        tf.zeros([1, 3, 2, 4]),
        tf.constant(proposals[None]),
        tf.constant([[64.0, 64.0]]),
        config,
    )
    count = int(found["num_detections"][0])
    np.testing.assert_array_equal(found["detection_boxes"][0, :count], proposals[kept])
    np.testing.assert_allclose(found["detection_scores"][0, :count], tf.nn.softmax(logits)[:, 1].numpy()[kept])
    np.testing.assert_array_equal(found["detection_classes"][0], [1] * count + [0] * (5 - count))
