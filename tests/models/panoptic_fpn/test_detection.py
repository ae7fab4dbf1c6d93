from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from panoptic_cli.config.panoptic_fpn import DetectionGenerator
from panoptic_cli.models.panoptic_fpn import detection
from panoptic_cli.models.panoptic_fpn.detection import detect
from panoptic_cli.models.panoptic_fpn.nms import Suppression


@pytest.mark.parametrize("suppression", ["kernel", "lists", "padded", "matrix"])
@pytest.mark.parametrize(("top_k", "kept"), [(3, [0, 2]), (2, [0]), (1, [0])])
def test_only_the_highest_scores_of_a_class_are_considered(
    top_k: int, kept: list[int], suppression: Suppression
) -> None:
    # The second proposal equals the first. The third overlaps neither, but is considered only among the best three.
    proposals = np.array([[0, 0, 10, 10], [0, 0, 10, 10], [20, 20, 30, 30]], np.float32)
    logits = np.array([[0, 3], [0, 2], [0, 1]], np.float32)  # background and one class
    config = DetectionGenerator(pre_nms_top_k=top_k, max_num_detections=5)

    # The heads' reshape loses the number of proposals when the batch is dynamic.
    @tf.function(input_signature=[tf.TensorSpec([None, None, 2]), tf.TensorSpec([None, 3, 4])], autograph=False)
    def detections(logits: tf.Tensor, proposals: tf.Tensor) -> dict[str, tf.Tensor]:
        offsets = tf.zeros([tf.shape(logits)[0], 3, 2, 4])
        if suppression not in ("kernel", "matrix"):  # their batch is static
            logits, offsets, proposals = logits[:1], tf.zeros([1, 3, 2, 4]), tf.ensure_shape(proposals, [1, 3, 4])
        return detect(logits, offsets, proposals, tf.constant([[64.0, 64.0]]), config, suppression)

    found = detections(tf.constant(logits[None]), tf.constant(proposals[None]))
    count = int(found["num_detections"][0])
    np.testing.assert_array_equal(found["detection_boxes"][0, :count], proposals[kept])
    np.testing.assert_allclose(found["detection_scores"][0, :count], tf.nn.softmax(logits)[:, 1].numpy()[kept])
    np.testing.assert_array_equal(found["detection_classes"][0], [1] * count + [0] * (5 - count))


@pytest.mark.parametrize("most", [None, 100])
@pytest.mark.parametrize("suppression", ["lists", "padded", "matrix"])
def test_all_forms_of_suppression_give_the_same_detections(
    suppression: Suppression, most: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if most is not None:  # a picture with more candidates than one list of the matrix form holds
        monkeypatch.setattr(detection, "_MOST_CANDIDATES", most)
    rng = np.random.default_rng(3)
    low = rng.uniform(0, 40, (2, 60, 2))
    proposals = np.concatenate([low, low + rng.uniform(4, 24, (2, 60, 2))], -1).astype(np.float32)
    scores = tf.constant(2 * rng.standard_normal((2, 60, 5)), tf.float32)
    offsets = tf.constant(0.3 * rng.standard_normal((2, 60, 5, 4)), tf.float32)
    config = DetectionGenerator(pre_nms_top_k=40, max_num_detections=30)
    shape = tf.constant([[64.0, 64.0], [48.0, 60.0]])
    kernel = detect(scores, offsets, tf.constant(proposals), shape, config)
    other = detect(scores, offsets, tf.constant(proposals), shape, config, suppression)
    assert kernel["num_detections"].numpy().min() > 20
    for name, value in kernel.items():
        assert value.dtype == other[name].dtype
        np.testing.assert_array_equal(value, other[name], err_msg=name)
