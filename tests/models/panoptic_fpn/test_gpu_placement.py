"""On a GPU, the training step and the network stay there: what the host reads is in a list, with the reason."""

from __future__ import annotations

import pytest
import tensorflow as tf
from gpu_placement import Copy, Placement

from panoptic_cli import devices, models
from panoptic_cli.categories import CategoryTable
from panoptic_cli.config import Experiment, load_experiment
from panoptic_cli.demo.shapes import CATEGORIES
from panoptic_cli.models.panoptic_fpn.network import PanopticFPN
from panoptic_cli.pipeline.preprocessing import geometry_spec
from panoptic_cli.training.schedules import build_optimizer
from panoptic_cli.training.step import TrainingModel

TABLE = CategoryTable.from_list(CATEGORIES, "shapes")
# (Type of the operation that reads on the host, part of its name, most such copies): why.
ALLOWED = {
    ("StatelessWhile", "while", 2): "suppression asks once in eight rounds whether anything has changed",
    ("StatelessIf", "cond", 1): "the network asks whether the candidates fit into one list",
    ("CombinedNonMaxSuppression", "/cond/", 2): "they do not fit",
    ("AddV2", "/cond/", 1): "likewise",
    ("If", "cond", 2): "Keras' loss scale asks whether the gradient of float16 is finite, and whether to grow",
    ("Identity", "Identity", 2): "int32 results of a function are handed over on the host, where they are read",
}


pytestmark = pytest.mark.usefixtures("restored_policy")


def check(copies: list[Copy], kinds: set[str]) -> None:
    """Every copy is allowed, and no kind of copy is more frequent than allowed."""
    found: dict[tuple[str, str, int], list[str]] = {}
    unexpected = []
    for copy in copies:
        rule = next((rule for rule in ALLOWED if rule[0] == copy.op and rule[1] in copy.node), None)
        if rule is None or rule[0] not in kinds:
            unexpected.append(f"{copy.op} {copy.node} reads {copy.source}")
        else:
            found.setdefault(rule, []).append(copy.node)
    assert unexpected == []
    assert {rule: nodes for rule, nodes in found.items() if len(nodes) > rule[2]} == {}


def batch_spec(experiment: Experiment, size: int, batch: int) -> dict[str, object]:
    """The specification of a training batch: static shapes, as `training_dataset` gives them."""
    from panoptic_cli.models.panoptic_fpn.anchors import anchor_boxes
    from panoptic_cli.pipeline.preprocessing import Geometry

    model, parser = experiment.task.model, experiment.task.train_data.parser
    anchors = anchor_boxes(model.anchor, (size, size), model.min_level, model.max_level)
    most, crop = parser.max_num_instances, parser.mask_crop_size

    def spec(*shape: int, dtype: tf.DType = tf.float32) -> tf.TensorSpec:
        return tf.TensorSpec([batch, *shape], dtype)

    return {
        "images": spec(size, size, 3),
        "geometry": Geometry(spec(2), spec(2), spec(2), spec(2)),
        "gt_boxes": spec(most, 4),
        "gt_classes": spec(most, dtype=tf.int32),
        "gt_masks": spec(most, crop, crop, dtype=tf.uint8),
        "rpn_scores": {str(level): spec(*b.shape[:3], dtype=tf.int32) for level, b in anchors.items()},
        "rpn_boxes": {str(level): spec(*b.shape[:2], 4 * b.shape[2]) for level, b in anchors.items()},
        "semantic_labels": spec(size, size, dtype=tf.int32),
    }


def experiment_of(preset: str, precision: str, size: int) -> Experiment:
    found = load_experiment(
        preset,
        settings=[
            f"task.model.input_size=[{size},{size},3]",
            f"runtime.mixed_precision_dtype={precision}",
            "trainer.optimizer_config.ema.average_decay=0.99",
            "trainer.optimizer_config.optimizer.sgd.global_clipnorm=10",
        ],
    )
    devices.set_precision(found.runtime)
    return found


def check_training(experiment: Experiment, network: PanopticFPN, size: int) -> None:
    precision = experiment.runtime.mixed_precision_dtype
    model = TrainingModel(network, experiment, "gpu")
    optimizer = build_optimizer(experiment.trainer.optimizer_config, 100, precision)
    optimizer.build(model.trainable_variables)
    model.compile(optimizer=optimizer, auto_scale_loss=False)
    spec = batch_spec(experiment, size, 2)
    step = tf.function(model.train_step, autograph=False).get_concrete_function(
        spec, tf.TensorSpec([], tf.int32, "number")
    )
    placement = Placement(step.graph.as_graph_def(add_shapes=True), on_host=("number",))
    assert len(placement.types) > 20
    assert placement.without_kernel == []
    check(placement.copies, {"StatelessWhile", "If"} if precision == "float16" else {"StatelessWhile"})


def check_inference(network: PanopticFPN, size: int) -> None:
    @tf.function(autograph=False)
    def infer(images: tf.Tensor, geometry: object) -> dict[str, tf.Tensor]:
        return dict(network(images, geometry, platform="gpu"))

    graph = infer.get_concrete_function(tf.TensorSpec([None, size, size, 3], tf.float32), geometry_spec(None)).graph
    placement = Placement(graph.as_graph_def(add_shapes=True))
    assert {op for op, _ in placement.without_kernel} <= {"CombinedNonMaxSuppression"}
    check(placement.copies, {rule[0] for rule in ALLOWED} - {"If"})


@pytest.mark.parametrize(
    "precision", ["float16", *(pytest.param(name, marks=pytest.mark.slow) for name in ("float32", "bfloat16"))]
)
def test_the_step_and_the_network_stay_on_the_gpu(precision: str) -> None:
    experiment = experiment_of("panoptic_fpn_shapes", precision, 64)
    network = models.create_network(experiment, TABLE)
    assert isinstance(network, PanopticFPN)
    check_training(experiment, network, 64)
    check_inference(network, 64)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_those_of_the_coco_preset_do(precision: str) -> None:
    experiment = experiment_of("panoptic_fpn_coco", precision, 256)
    entries = [{"id": i, "name": str(i), "isthing": int(i <= 90)} for i in range(1, 201) if i != 91]
    network = models.create_network(experiment, CategoryTable.from_list(entries, "test"))
    assert isinstance(network, PanopticFPN)
    check_training(experiment, network, 256)
    check_inference(network, 256)


def test_a_step_traced_for_the_cpu_would_leave_it() -> None:
    """The walk finds what it is for: the forms of the CPU, on a GPU."""
    experiment = experiment_of("panoptic_fpn_shapes", "float32", 64)
    network = models.create_network(experiment, TABLE)

    @tf.function(autograph=False)
    def infer(images: tf.Tensor, geometry: object) -> dict[str, tf.Tensor]:
        return dict(network(images, geometry, platform="cpu"))

    graph = infer.get_concrete_function(tf.TensorSpec([None, 64, 64, 3], tf.float32), geometry_spec(None)).graph
    placement = Placement(graph.as_graph_def(add_shapes=True))
    assert "CombinedNonMaxSuppression" in {op for op, _ in placement.without_kernel}
    assert len(placement.copies) > 20


def test_the_walk_follows_int32_to_the_host() -> None:
    @tf.function(autograph=False)
    def function(x: tf.Tensor) -> tf.Tensor:
        index = tf.cast(x * 2.0, tf.int32) + 1
        return tf.gather(x, index) + tf.cast(tf.shape(x)[0], tf.float32)

    graph = function.get_concrete_function(tf.TensorSpec([4], tf.float32)).graph.as_graph_def(add_shapes=True)
    (copy,) = Placement(graph).copies
    assert (copy.op, copy.source, copy.kernel) == ("AddV2", "Cast", True)
