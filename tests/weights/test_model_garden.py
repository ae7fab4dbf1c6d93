"""Loading of tensorflow/models checkpoints, which are written here in the layout of its trainer."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from panoptic_cli import weights
from panoptic_cli.categories import CategoryTable
from panoptic_cli.config import load_experiment
from panoptic_cli.errors import RunError
from panoptic_cli.models.panoptic_fpn.label_space import label_space_of
from panoptic_cli.models.panoptic_fpn.network import PanopticFPN
from panoptic_cli.weights import model_garden

pytestmark = pytest.mark.usefixtures("float32_policy")

STEP = 1234
FIGURES = Path(__file__).parents[1] / "conformance" / "reference" / "variables.json"
_SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
SHRINK = 8  # every layer has an eighth of the published network's filters
# Sizes that depend on the classes, the anchors or the picture's channels, not on the width of the layers.
FIXED = {1, 3, 12, 91, 364, 111}


NARROW = {
    "backbone.resnet.depth_multiplier": 1 / SHRINK,
    "decoder.fpn.num_filters": 256 // SHRINK,
    "rpn_head.num_filters": 256 // SHRINK,
    "detection_head.num_filters": 256 // SHRINK,
    "detection_head.fc_dims": 1024 // SHRINK,
    "mask_head.num_filters": 256 // SHRINK,
    "segmentation_model.head.num_filters": 128 // SHRINK,
}


def small_network(settings: Mapping[str, Any] | None = None, table: CategoryTable | None = None) -> PanopticFPN:
    """Creates the network of panoptic_fpn_coco with all its layers and classes, but an eighth as wide."""
    widths = NARROW | dict(settings or {})
    experiment = load_experiment(options=[(f"task.model.{key}", value) for key, value in widths.items()])
    if table is None:
        ids = [i for i in range(1, 201) if i != 91]
        entries = [{"id": i, "name": str(i), "isthing": int(i < 91)} for i in ids]
        table = CategoryTable.from_list(entries, "the test")
    return PanopticFPN(experiment.task, label_space_of(experiment, table))


@pytest.fixture(scope="module")
def network() -> PanopticFPN:
    return small_network()


def shrunk(shape: list[int]) -> list[int]:
    """Converts the shape of a variable of the published checkpoint to that in the small network."""
    spatial, channels = (shape[:2], shape[2:]) if len(shape) == 4 else ([], shape)
    return [*spatial, *(size if size in FIXED else size // SHRINK for size in channels)]


def stored_values() -> dict[str, np.ndarray]:
    """Returns different numbers for every variable, by its name in the reference."""
    rng = np.random.default_rng(0)
    shapes = json.loads(FIGURES.read_text())["variables"]
    return {k.removesuffix(_SUFFIX): rng.standard_normal(shrunk(s)).astype(np.float32) for k, s in shapes.items()}


def objects(values: dict[str, np.ndarray]) -> dict[str, Any]:
    """Builds a tree of trackable objects in which each path leads to a variable."""
    tree: dict[str, Any] = {}
    for path, value in values.items():
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = tf.Variable(value)

    def build(node: Any) -> Any:
        return tf.train.Checkpoint(**{k: build(v) for k, v in node.items()}) if isinstance(node, dict) else node

    return {name: build(node) for name, node in tree.items()}


Writer = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path) -> Writer:
    def save(values: dict[str, np.ndarray], *, under_model: bool = True) -> str:
        parts = objects(values)
        optimizer = tf.train.Checkpoint(iter=tf.Variable(STEP), momentum=tf.Variable(np.ones(3)))
        root = {"model": tf.train.Checkpoint(**parts)} if under_model else parts
        checkpoint = tf.train.Checkpoint(**root, optimizer=optimizer, global_step=tf.Variable(STEP, dtype=tf.int64))
        return checkpoint.write(str(tmp_path / "ckpt-1"))

    return save


@pytest.mark.parametrize("under_model", [True, False])
def test_every_variable_is_loaded_by_its_path(
    under_model: bool, network: PanopticFPN, write: Writer, tmp_path: Path
) -> None:
    values = stored_values()
    prefix = write(values, under_model=under_model)
    weights.load_weights(network, prefix)
    # Every value went to a different variable. The conformance tests check by the outputs that it is the right one.
    loaded_values = sorted(float(v.numpy().sum()) for v in network.weights)
    np.testing.assert_allclose(loaded_values, sorted(float(v.sum()) for v in values.values()), rtol=1e-6)
    np.testing.assert_array_equal(
        network.backbone.stem_conv.kernel.numpy(), values["backbone/layer_with_weights-0/kernel"]
    )
    np.testing.assert_array_equal(
        network.mask_head.mask_regressor.bias.numpy(), values["mask_head/_mask_regressor/bias"]
    )
    np.testing.assert_array_equal(
        network.rpn_head.norms[1][0].moving_variance.numpy(), values["rpn_head/_norms/1/0/moving_variance"]
    )
    np.testing.assert_array_equal(
        network.detection_head.classifier.kernel.numpy(), values["detection_head/0/_classifier/kernel"]
    )
    loaded = model_garden.load_model_garden(network, prefix)
    assert loaded.variables == len(network.weights)
    assert loaded.parameters == network.count_params()
    assert loaded.step == STEP
    assert not loaded.backbone_only


def test_all_mismatches_are_named_and_nothing_is_changed(network: PanopticFPN, write: Writer) -> None:
    values = stored_values()
    del values["decoder/layer_with_weights-0/kernel"]
    values["mask_head/_deconv/bias"] = np.zeros(999, np.float32)
    values["rpn_head/_another/kernel"] = np.zeros((1, 1), np.float32)
    before = network.get_weights()
    with pytest.raises(RunError) as caught:
        weights.load_weights(network, write(values))
    text = str(caught.value)
    assert "decoder/layer_with_weights-0/kernel is not in the checkpoint" in text
    assert "mask_head/_deconv/bias is [999] in the checkpoint" in text
    assert "rpn_head/_another/kernel is only in the checkpoint" in text
    for a, b in zip(before, network.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_checkpoint_of_another_depth_is_refused(network: PanopticFPN, write: Writer) -> None:
    prefix = write(stored_values())
    with pytest.raises(RunError, match="does not fit the configured network"):
        weights.load_weights(small_network({"backbone.resnet.model_id": 34}), prefix)
    with pytest.raises(RunError, match="does not fit the configured network"):
        weights.load_weights(small_network({"max_level": 4}), prefix)


def test_a_classifier_initialises_only_the_backbone(network: PanopticFPN, write: Writer) -> None:
    values = {path: v for path, v in stored_values().items() if path.startswith("backbone/")}
    values["_dense/kernel"] = np.zeros((4, 1000), np.float32)
    prefix = write(values)
    heads = [w for w in network.weights if not w.path.startswith("backbone")]
    before = [w.numpy() for w in heads]
    line = str(weights.initialize(network, prefix))
    assert "backbone" in line
    assert f"{len(network.backbone.weights)} variables" in line
    np.testing.assert_array_equal(
        network.backbone.stem_conv.kernel.numpy(), values["backbone/layer_with_weights-0/kernel"]
    )
    for a, b in zip(before, heads, strict=True):
        np.testing.assert_array_equal(a, b.numpy())
    with pytest.raises(RunError, match="not in the checkpoint"):
        weights.load_weights(network, prefix)  # an evaluation needs the heads


def test_files_that_are_not_checkpoints_are_refused(network: PanopticFPN, write: Writer, tmp_path: Path) -> None:
    with pytest.raises(RunError):
        weights.load_weights(network, str(tmp_path / "absent"))
    other = tf.train.Checkpoint(encoder=tf.Variable(1.0)).write(str(tmp_path / "other"))
    with pytest.raises(RunError, match="has no 'backbone'"):
        weights.load_weights(network, other)
    prefix = write(stored_values())
    index = Path(f"{prefix}.index")
    index.write_bytes(index.read_bytes()[: index.stat().st_size // 2])
    with pytest.raises(RunError, match="cannot be read"):
        weights.load_weights(network, prefix)


def test_a_truncated_checkpoint_changes_nothing(network: PanopticFPN, write: Writer) -> None:
    prefix = write(stored_values())
    data = Path(f"{prefix}.data-00000-of-00001")
    data.write_bytes(data.read_bytes()[: data.stat().st_size * 3 // 4])
    before = [v.numpy().copy() for v in network.weights]
    with pytest.raises(RunError, match="cannot be read"):
        weights.load_weights(network, prefix)
    for a, b in zip(before, network.weights, strict=True):
        np.testing.assert_array_equal(a, b.numpy())


def test_a_published_model_initialises_other_categories_by_their_names(write: Writer) -> None:
    values = stored_values()
    table = CategoryTable.from_list(
        [
            {"id": 1, "name": "gnome", "isthing": 1},
            {"id": 2, "name": "dog", "isthing": 1},  # COCO's 18
            {"id": 3, "name": "sky-other-merged", "isthing": 0},  # COCO's 187
            {"id": 4, "name": "person", "isthing": 1},  # COCO's 1
        ],
        "the test",
    )
    mine = dict.fromkeys(["num_classes", "stuff_classes_offset", "segmentation_model.num_classes"])
    network = small_network(mine, table)
    before = {v.path: v.numpy().copy() for v in network.variables}
    loaded = weights.initialize(network, write(values))
    assert "8 in part (rows of 3 of 4 categories: dog, person, sky-other-merged), 0 not at all" in str(loaded)
    assert loaded.step == STEP

    def check(ours: Any, theirs: str, classes: dict[int, int], sides: int = 1) -> None:
        value, source, start = ours.numpy(), values[theirs], before[ours.path]
        for place in range(value.shape[-1] // sides):
            part = slice(place * sides, (place + 1) * sides)
            their = classes.get(place)
            there = start[..., part] if their is None else source[..., their * sides : (their + 1) * sides]
            np.testing.assert_array_equal(value[..., part], there)

    things, stuff = {0: 0, 2: 18, 3: 1}, {0: 0, 1: 1, 2: 187 - 90}
    for kind in ("kernel", "bias"):
        check(getattr(network.detection_head.classifier, kind), f"detection_head/0/_classifier/{kind}", things)
        box = getattr(network.detection_head.box_regressor, kind)
        check(box, f"detection_head/0/_box_regressor/{kind}", things, sides=4)
        check(getattr(network.mask_head.mask_regressor, kind), f"mask_head/_mask_regressor/{kind}", things)
        check(getattr(network.segmentation_head.classifier, kind), f"segmentation_head/_classifier/{kind}", stuff)
    np.testing.assert_array_equal(network.mask_head.deconv.kernel.numpy(), values["mask_head/_deconv/kernel"])
    with pytest.raises(RunError, match="has other categories in the checkpoint"):
        weights.initialize(network, write(values), strict=True)


def test_another_backbone_is_refused_as_initial_weights(write: Writer) -> None:
    with pytest.raises(RunError, match="does not fit the configured network"):
        weights.initialize(small_network({"backbone.resnet.model_id": 34}), write(stored_values()))
