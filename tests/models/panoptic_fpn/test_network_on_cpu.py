"""What the network saves at inference on a CPU does not change what it finds."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from geometries import geometry_of

from panoptic_cli.categories import CategoryTable
from panoptic_cli.config import load_experiment
from panoptic_cli.demo.shapes import CATEGORIES
from panoptic_cli.models.panoptic_fpn.label_space import LabelSpace
from panoptic_cli.models.panoptic_fpn.network import PanopticFPN
from panoptic_cli.models.platform import Platform


def outputs(network: PanopticFPN, images: tf.Tensor, platform: Platform) -> dict[str, np.ndarray]:
    height, width = images.shape[1:3]
    geometry = geometry_of([[[height, width], [height, width], [1, 1], [0, 0]]] * len(images))
    found = tf.function(lambda x, g: network(x, g, platform=platform))(images, geometry)
    return {name: value.numpy() for name, value in found.items()}


@pytest.mark.parametrize("threshold", [0.0, 0.3, 1.0])  # detections in all places, in some, in none
def test_savings_change_nothing(tiny_network: tuple[str, ...], threshold: float) -> None:
    settings = [*tiny_network, "task.model.detection_head.num_convs=2", "task.model.detection_head.num_filters=16"]
    settings.append(f"task.model.detection_generator={{pre_nms_score_threshold: {threshold}, max_num_detections: 12}}")
    experiment = load_experiment("panoptic_fpn_shapes", settings=settings)
    network = PanopticFPN(experiment.task, LabelSpace.create(CategoryTable.from_list(CATEGORIES, "shapes")))
    rng = np.random.default_rng(0)
    for norm in network.detection_head.conv_norms:
        norm.gamma.assign(rng.uniform(0.5, 1.5, norm.gamma.shape))
        norm.beta.assign(rng.normal(0, 0.3, norm.beta.shape))
        norm.moving_mean.assign(rng.normal(0, 0.3, norm.moving_mean.shape))
        norm.moving_variance.assign(rng.uniform(0.3, 2, norm.moving_variance.shape))
    for conv in network.detection_head.convs:
        conv.bias.assign(rng.normal(0, 0.3, conv.bias.shape))
    # Scores that differ: an untrained classifier gives every proposal nearly the same.
    classifier = network.detection_head.classifier
    classifier.kernel.assign(rng.normal(0, 1.0, classifier.kernel.shape))
    images = tf.constant(rng.normal(0, 1, (2, 64, 64, 3)).astype(np.float32))

    saving, plain = outputs(network, images, "cpu"), outputs(network, images, "gpu")

    counts = plain["num_detections"]
    assert {0.0: counts.min() > 8, 0.3: counts.max() > 0, 1.0: counts.max() == 0}[threshold]
    np.testing.assert_array_equal(saving["num_detections"], counts)
    np.testing.assert_array_equal(saving["detection_classes"], plain["detection_classes"])
    np.testing.assert_array_equal(saving["semantic_logits"], plain["semantic_logits"])
    np.testing.assert_allclose(saving["detection_scores"], plain["detection_scores"], atol=2e-5)
    np.testing.assert_allclose(saving["detection_boxes"], plain["detection_boxes"], atol=1e-3)
    assert saving["detection_masks"].shape == plain["detection_masks"].shape
    for picture, count in enumerate(counts):
        # Boxes in their last bits move the samples of the masks.
        np.testing.assert_allclose(
            saving["detection_masks"][picture, :count], plain["detection_masks"][picture, :count], atol=2e-4
        )
