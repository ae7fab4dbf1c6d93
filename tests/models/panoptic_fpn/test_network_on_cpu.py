"""The forms of the network for inference on a CPU, compared with those for a GPU."""

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


@pytest.mark.parametrize("threshold", [0.0, 0.95, 1.0])  # many detections, some, or none
def test_the_forms_for_cpu_and_gpu_give_the_same_outputs(tiny_network: tuple[str, ...], threshold: float) -> None:
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
    # Make the scores differ: untrained classifiers give every anchor and every proposal nearly the same score, and
    # those of equal scores may change places. With larger weights, many scores would be 1.
    rpn, classifier = network.rpn_head, network.detection_head.classifier
    for kernel, deviation in [(rpn.convs[0].kernel, 0.1), (rpn.classifier.kernel, 0.5), (classifier.kernel, 0.1)]:
        kernel.assign(rng.normal(0, deviation, kernel.shape))
    images = tf.constant(rng.normal(0, 1, (2, 64, 64, 3)).astype(np.float32))

    cpu_form, gpu_form = outputs(network, images, "cpu"), outputs(network, images, "gpu")

    counts = gpu_form["num_detections"]
    assert {0.0: counts.min() == 12, 0.95: 0 < counts.min() < 12, 1.0: counts.max() == 0}[threshold]
    np.testing.assert_array_equal(cpu_form["num_detections"], counts)
    np.testing.assert_array_equal(cpu_form["detection_classes"], gpu_form["detection_classes"])
    np.testing.assert_array_equal(cpu_form["semantic_logits"], gpu_form["semantic_logits"])
    np.testing.assert_allclose(cpu_form["detection_scores"], gpu_form["detection_scores"], atol=2e-5)
    np.testing.assert_allclose(cpu_form["detection_boxes"], gpu_form["detection_boxes"], atol=1e-3)
    assert cpu_form["detection_masks"].shape == gpu_form["detection_masks"].shape
    for picture, count in enumerate(counts):
        # The last bits of the boxes move the samples of the masks.
        np.testing.assert_allclose(
            cpu_form["detection_masks"][picture, :count], gpu_form["detection_masks"][picture, :count], atol=2e-4
        )
