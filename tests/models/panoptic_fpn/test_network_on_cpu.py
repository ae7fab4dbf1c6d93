"""The forms of the network for inference on a CPU, compared with those for a GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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


@pytest.fixture(scope="module")
def network(tiny_network: tuple[str, ...]) -> PanopticFPN:
    """A network whose scores differ.

    Untrained classifiers give every anchor and every proposal nearly the same score, and those of equal scores may
    change places. With larger weights, many scores would be 1.
    """
    settings = [*tiny_network, "task.model.detection_head.num_convs=2", "task.model.detection_head.num_filters=16"]
    settings.append("task.model.detection_generator={pre_nms_score_threshold: 0.05, max_num_detections: 12}")
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
    rpn, classifier = network.rpn_head, network.detection_head.classifier
    for kernel, deviation in [(rpn.convs[0].kernel, 0.1), (rpn.classifier.kernel, 0.5), (classifier.kernel, 0.1)]:
        kernel.assign(rng.normal(0, deviation, kernel.shape))
    return network


@pytest.fixture(scope="module")
def forms(network: PanopticFPN) -> dict[Platform, Callable[..., dict[str, tf.Tensor]]]:
    def graph(platform: Platform) -> Callable[..., dict[str, tf.Tensor]]:
        return tf.function(lambda x, g: network(x, g, platform=platform), autograph=False)

    return {"cpu": graph("cpu"), "gpu": graph("gpu")}


# The background's logit is raised until there are few detections, and none.
@pytest.mark.parametrize(("background", "fewest", "most"), [(-9, 12, 12), (7, 1, 11), (30, 0, 0)])
def test_the_forms_for_cpu_and_gpu_give_the_same_outputs(
    network: PanopticFPN, forms: dict[Platform, Callable[..., Any]], background: float, fewest: int, most: int
) -> None:
    bias = network.detection_head.classifier.bias
    bias.assign(np.eye(1, bias.shape[0], dtype=np.float32)[0] * background)
    images = tf.constant(np.random.default_rng(1).normal(0, 1, (2, 64, 64, 3)).astype(np.float32))
    geometry = geometry_of([[[64, 64], [64, 64], [1, 1], [0, 0]]] * 2)

    cpu_form, gpu_form = (
        {name: value.numpy() for name, value in forms[platform](images, geometry).items()}
        for platform in ("cpu", "gpu")
    )

    counts = gpu_form["num_detections"]
    assert fewest <= counts.min() <= counts.max() <= most
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
