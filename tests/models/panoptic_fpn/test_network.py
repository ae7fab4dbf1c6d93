"""The assembled network: shapes, batches, graph and compiled form, sizes and variants."""

from __future__ import annotations

from typing import Any, Literal

import keras
import numpy as np
import pytest
import tensorflow as tf
from geometries import geometry_of

from panoptic_cli.categories import CategoryTable
from panoptic_cli.config import load_experiment
from panoptic_cli.models.panoptic_fpn.anchors import anchor_boxes
from panoptic_cli.models.panoptic_fpn.forms import FORMS
from panoptic_cli.models.panoptic_fpn.label_space import LabelSpace
from panoptic_cli.models.panoptic_fpn.network import PanopticFPN
from panoptic_cli.models.panoptic_fpn.rpn import propose
from panoptic_cli.models.platform import Platform
from panoptic_cli.pipeline.preprocessing import Geometry, geometry_spec

SIZE = 64
OPTIONS = [("task.model.input_size", [SIZE, SIZE, 3])]


@pytest.fixture(scope="module")
def network(shapes_labels: LabelSpace) -> PanopticFPN:
    keras.config.set_dtype_policy("float32")
    keras.utils.set_random_seed(1)
    task = load_experiment("panoptic_fpn_shapes", options=OPTIONS).task
    network = PanopticFPN(task, shapes_labels)
    # An untrained network gives all boxes the same score. With larger kernels, scores and positions differ.
    rng = np.random.default_rng(0)
    for layer, scale in (
        (network.rpn_head.classifier, 0.3),
        (network.rpn_head.box_regressor, 0.03),
        (network.detection_head.classifier, 0.1),
        (network.detection_head.box_regressor, 0.02),
    ):
        layer.kernel.assign(scale * rng.standard_normal(layer.kernel.shape))
    return network


@pytest.fixture(scope="module")
def pictures() -> tuple[tf.Tensor, Geometry]:
    rng = np.random.default_rng(2)
    coarse = rng.standard_normal((2, 8, 8, 3)).astype(np.float32)
    images = tf.image.resize(coarse, [SIZE, SIZE])
    info = [[[32, 48], [64, 64], [4 / 3, 4 / 3], [0, 0]], [[64, 64], [64, 64], [1, 1], [0, 0]]]
    return images, geometry_of(info)


@pytest.fixture(scope="module")
def outputs(network: PanopticFPN, pictures: tuple[tf.Tensor, Geometry]) -> dict[str, np.ndarray]:
    return {key: value.numpy() for key, value in network(*pictures).items()}


def assert_same_detections(a: dict[str, Any], b: dict[str, Any]) -> None:
    # Convolutions add in another order: relative differences of 1e-6 per layer, 1e-4 pixels at the end.
    for key, value in a.items():
        tolerance = 5e-3 if key == "detection_boxes" else 5e-4
        np.testing.assert_allclose(value, b[key], atol=tolerance, rtol=1e-3, err_msg=key)


def test_outputs_have_their_shapes_and_ranges(outputs: dict[str, np.ndarray], network: PanopticFPN) -> None:
    most = network.config.detection_generator.max_num_detections
    classes = network.label_space.num_classes
    assert outputs["detection_boxes"].shape == (2, most, 4)
    assert outputs["detection_masks"].shape == (2, most, 28, 28)
    assert outputs["semantic_logits"].shape == (2, 16, 16, network.label_space.num_semantic_classes)
    for i, count in enumerate(outputs["num_detections"]):
        assert 5 < count <= most
        scores, found = outputs["detection_scores"][i], outputs["detection_classes"][i]
        assert (np.diff(scores) <= 0).all()
        assert (scores[:count] > network.config.detection_generator.pre_nms_score_threshold).all()
        assert ((found[:count] > 0) & (found[:count] < classes)).all()
        assert not found[count:].any()
        assert not scores[count:].any()
    assert (outputs["detection_boxes"] >= 0).all()
    assert (outputs["detection_boxes"] <= SIZE).all()
    assert ((outputs["detection_masks"] >= 0) & (outputs["detection_masks"] <= 1)).all()


def test_a_single_picture_gives_the_same_outputs_as_in_a_batch(
    network: PanopticFPN, pictures: tuple[tf.Tensor, Geometry], outputs: dict[str, np.ndarray]
) -> None:
    images, geometry = pictures
    for i in range(2):
        alone = network(images[i : i + 1], Geometry(*(x[i : i + 1] for x in geometry)))
        assert_same_detections(alone, {key: value[i : i + 1] for key, value in outputs.items()})


def test_graph_and_eager_execution_give_the_same_outputs(
    network: PanopticFPN, pictures: tuple[tf.Tensor, Geometry], outputs: dict[str, np.ndarray]
) -> None:
    before = [w.numpy() for w in network.weights]
    # The batch size is unknown, as in an exported model.
    signature = [tf.TensorSpec([None, SIZE, SIZE, 3]), geometry_spec(None)]
    graph = tf.function(lambda images, geometry: network(images, geometry), input_signature=signature, autograph=False)
    assert_same_detections(graph(*pictures), outputs)
    for a, b in zip(before, network.weights, strict=True):
        np.testing.assert_array_equal(a, b.numpy())  # inference changes no weights


def ground_truth() -> dict[str, tf.Tensor]:
    boxes = np.full((2, 16, 4), -1.0, np.float32)
    classes = np.full((2, 16), -1, np.int32)
    boxes[0, :2], classes[0, :2] = [[4, 6, 40, 30], [20, 30, 60, 62]], [1, 3]
    boxes[1, 0], classes[1, 0] = [10, 10, 30, 50], 2
    masks = (np.random.default_rng(0).random((2, 16, 56, 56)) > 0.4).astype(np.uint8) * 255
    return {"gt_boxes": tf.constant(boxes), "gt_classes": tf.constant(classes), "gt_masks": tf.constant(masks)}


def anchor_targets(network: PanopticFPN) -> dict[str, Any]:
    """Random targets of the anchors and pixels."""
    rng = np.random.default_rng(5)
    anchors = anchor_boxes(network.config.anchor, (SIZE, SIZE), network.levels[0], network.levels[-1])
    classes = network.label_space.num_semantic_classes
    return {
        "rpn_scores": {
            str(level): tf.constant(rng.integers(-1, 2, (2, *x.shape[:3])), tf.int32) for level, x in anchors.items()
        },
        "rpn_boxes": {
            str(level): tf.constant(rng.normal(0, 0.1, (2, *x.shape[:2], 4 * x.shape[2])), tf.float32)
            for level, x in anchors.items()
        },
        "semantic_labels": tf.constant(rng.integers(0, classes, (2, SIZE, SIZE)), tf.int32),
    }


def training_outputs(network: PanopticFPN, batch: dict[str, Any], platform: Platform) -> dict[str, tf.Tensor]:
    """What the losses are computed from."""
    forms = FORMS[platform]
    inputs = network.head_inputs(batch, tf.constant([1, 2]), forms)
    return {
        **{f"rpn_scores{level}": x for level, x in inputs.rpn_scores.items()},
        **{f"rpn_boxes{level}": x for level, x in inputs.rpn_boxes.items()},
        "class_targets": inputs.rois.classes,
        **network.box_outputs(inputs.features, inputs.rois, forms),
        **network.mask_outputs(inputs.features, inputs.rois, batch["gt_masks"], forms),
        "semantic_logits": network.segmentation_head(inputs.features),
    }


def test_training_shapes_are_static(network: PanopticFPN) -> None:
    @tf.function(autograph=False)
    def outputs(batch: dict[str, Any]) -> dict[str, tf.Tensor]:
        return training_outputs(network, batch, "cpu")

    specs: dict[str, Any] = {"images": tf.TensorSpec([2, SIZE, SIZE, 3]), "geometry": geometry_spec(2)}
    specs |= {name: tf.TensorSpec(x.shape, x.dtype) for name, x in ground_truth().items()}
    structured = outputs.get_concrete_function(specs).structured_outputs
    for name, tensor in structured.items():
        assert tensor.shape.is_fully_defined(), name
    rois, masks = network.config.roi_sampler.num_sampled_rois, network.config.mask_sampler.num_sampled_masks
    assert structured["class_logits"].shape == (2, rois, network.label_space.num_classes)
    assert structured["mask_logits"].shape == structured["mask_targets"].shape == (2, masks, 28, 28)


@pytest.mark.parametrize("training", [True, False])
def test_proposals_do_not_depend_on_the_suppression(
    training: bool, network: PanopticFPN, pictures: tuple[tf.Tensor, Geometry]
) -> None:
    images, geometry = pictures
    config = network.config
    levels = network.levels
    scores, offsets = network.rpn_head(network.pyramid(images, training=False), training=False)
    anchors = anchor_boxes(config.anchor, (SIZE, SIZE), levels[0], levels[-1])
    inputs = (scores, offsets, anchors, geometry.input_size, config.roi_generator)
    plain = propose(*inputs, training=training)
    compiled = propose(*inputs, training=training, suppression="padded")
    assert len(np.unique(plain[1])) > 20
    np.testing.assert_array_equal(plain[0], compiled[0])
    np.testing.assert_array_equal(plain[1], compiled[1])


@pytest.mark.slow
def test_compiled_training_gives_the_same_outputs(network: PanopticFPN, pictures: tuple[tf.Tensor, Geometry]) -> None:
    batch = {"images": pictures[0], "geometry": pictures[1], **ground_truth()}
    weights = network.get_weights()
    variables = [v.value for v in network.trainable_variables]

    def run(platform: Platform, batch: dict[str, Any]) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        with tf.GradientTape() as tape:
            outputs = training_outputs(network, batch, platform)
            total = tf.add_n([tf.reduce_mean(outputs[k] ** 2) for k in sorted(outputs) if "logits" in k])
        gradients = tape.gradient(total, variables, unconnected_gradients="zero")
        return outputs, tf.linalg.global_norm(gradients)

    plain, norm = tf.function(run, autograph=False)("cpu", batch)
    network.set_weights(weights)
    compiled, compiled_norm = tf.function(run, jit_compile=True, autograph=False)("xla", batch)
    network.set_weights(weights)
    for name, value in plain.items():
        # Rounding may decide whether one ROI is drawn; the values of all others agree.
        close = np.isclose(value, compiled[name], atol=2e-3, rtol=2e-3)
        assert close.mean() > 0.98, name
    assert float(norm) == pytest.approx(float(compiled_norm), rel=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_heads_one_by_one_have_the_gradient_of_all_at_once(
    platform: Platform, network: PanopticFPN, pictures: tuple[tf.Tensor, Geometry], monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = {"images": pictures[0], "geometry": pictures[1], **ground_truth(), **anchor_targets(network)}
    weights, variables = network.get_weights(), network.trainable_variables

    def run(data: dict[str, Any]) -> tuple[dict[str, tf.Tensor], list[tf.Tensor]]:
        with tf.GradientTape() as tape:
            losses = network.losses(data, tf.constant([1, 2]), tf.constant(0), platform)
            scaled = 8.0 * losses["total_loss"]
        gradients = tape.gradient(scaled, [v.value for v in variables])
        return losses, [tf.convert_to_tensor(g) for g in gradients]

    assert FORMS[platform].one_by_one
    losses, gradients = tf.function(run, autograph=False)(batch)
    network.set_weights(weights)
    monkeypatch.setitem(FORMS, platform, FORMS[platform]._replace(one_by_one=False))
    all_losses, all_gradients = tf.function(run, autograph=False)(batch)
    moved = network.get_weights()
    network.set_weights(weights)
    assert any(not np.array_equal(a, b) for a, b in zip(weights, moved, strict=True))  # the statistics
    for name, value in losses.items():
        np.testing.assert_allclose(value, all_losses[name], rtol=1e-6, err_msg=name)
    norms = [float(tf.norm(g)) for g in all_gradients]
    for variable, ours, theirs, norm in zip(variables, gradients, all_gradients, norms, strict=True):
        # Sums are in another order; a gradient that is small against the others is made of what cancels.
        error = float(tf.norm(ours - theirs))
        assert error <= 1e-4 * norm + 1e-6 * max(norms), variable.path


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_lower_precision_is_close_to_float32(
    policy: str,
    network: PanopticFPN,
    pictures: tuple[tf.Tensor, Geometry],
    outputs: dict[str, np.ndarray],
) -> None:
    keras.config.set_dtype_policy(policy)
    lower = PanopticFPN(network.task, network.label_space)
    lower.set_weights(network.get_weights())
    features = lower.pyramid(pictures[0], training=False)
    assert {x.dtype.name for x in features.values()} == {policy.removeprefix("mixed_")}
    result = lower(*pictures)
    for key, value in result.items():
        assert value.dtype in (tf.float32, tf.int32), key
        assert np.isfinite(value).all(), key
    # The mantissa has 8 bits, and errors add up over 30 layers.
    expected = outputs["semantic_logits"]
    error = np.sqrt(np.mean((result["semantic_logits"].numpy() - expected) ** 2))
    assert error < 0.1 * expected.std()


def coco_labels() -> LabelSpace:
    entries = [{"id": i, "name": str(i), "isthing": int(i < 91)} for i in range(1, 201) if i != 91]
    return LabelSpace.create(CategoryTable.from_list(entries, "the test"), 90, 91, 111)


def test_the_coco_preset_has_the_size_of_the_reference() -> None:
    network = PanopticFPN(load_experiment("panoptic_fpn_coco").task, coco_labels())
    assert network.count_params() == 48_809_824  # as in the reference's checkpoint
    assert len(network.weights) == 441
    assert len({w.path for w in network.weights}) == 441


# The sizes of torchvision's published models without their classifiers. The reference projects the first stage's
# shortcut in the basic blocks, too (a 64 x 64 kernel and two norm vectors).
@pytest.mark.parametrize(("model_id", "trainable"), [(18, 11_176_512 + 4224), (50, 23_508_032), (101, 42_500_160)])
def test_backbones_have_the_published_sizes(model_id: Literal[18, 50, 101], trainable: int) -> None:
    from panoptic_cli.config.panoptic_fpn import NormActivation, ResNetBackbone
    from panoptic_cli.models.panoptic_fpn.resnet import ResNet

    backbone = ResNet(ResNetBackbone(model_id=model_id), NormActivation())
    backbone.build((None, None, None, 3))
    assert sum(int(np.prod(v.shape)) for v in backbone.trainable_variables) == trainable


@pytest.mark.parametrize(
    "settings",
    [
        {"backbone.resnet.model_id": 50, "backbone.resnet.depth_multiplier": 0.25, "max_level": 6},
        {"backbone.resnet.depth_multiplier": 0.25, "min_level": 3, "max_level": 5},
        {"detection_head.num_convs": 0, "detection_head.num_fcs": 2, "rpn_head.num_convs": 2},
    ],
)
def test_variants_run(
    settings: dict[str, Any], shapes_labels: LabelSpace, pictures: tuple[tf.Tensor, Geometry]
) -> None:
    options = [*OPTIONS, *((f"task.model.{key}", value) for key, value in settings.items())]
    network = PanopticFPN(load_experiment("panoptic_fpn_shapes", options=options).task, shapes_labels)
    outputs = network(*pictures)
    assert outputs["semantic_logits"].shape[1:3] == (SIZE // 4, SIZE // 4)
    assert all(np.isfinite(value).all() for value in outputs.values())
