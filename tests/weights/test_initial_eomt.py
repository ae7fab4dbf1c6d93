"""Initial weights of EoMT for other categories, from a folder in Hugging Face's layout and from an own checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from eomt_checkpoints import load_network, write_checkpoint

from panoptic_cli import weights
from panoptic_cli.categories import CategoryTable
from panoptic_cli.coco.official_categories import coco_panoptic_categories
from panoptic_cli.config import load_experiment
from panoptic_cli.config.hugging_face import described_network, read_config
from panoptic_cli.errors import RunError
from panoptic_cli.training.initial_weights import load_initial_weights

if TYPE_CHECKING:
    from panoptic_cli.models.eomt.network import Eomt

pytestmark = [pytest.mark.shared, pytest.mark.usefixtures("float32_policy")]

COCO = coco_panoptic_categories()
MINE = CategoryTable.from_list(
    [
        {"id": 9, "name": "gnome", "isthing": 1},
        {"id": 1, "name": "person", "isthing": 1},
        {"id": 3, "name": "sky-other-merged", "isthing": 0},
    ],
    "mine",
)
NAMES = [category.name for category in COCO.categories]
CLASSES = {1: NAMES.index("person"), 2: NAMES.index("sky-other-merged"), 3: len(NAMES)}  # the last is "no object"
EXPERIMENT = load_experiment("eomt_coco_large_640")  # for its family


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint("tiny_gelu", tmp_path_factory.mktemp("hub") / "tiny")


def build(folder: Path, table: CategoryTable = MINE, **changes: int) -> Eomt:
    import keras

    from panoptic_cli.models.eomt.network import Eomt

    config = read_config(str(folder))
    assert config is not None
    keras.utils.set_random_seed(0)
    return Eomt(described_network(config, str(folder)).model.model_copy(update=changes), table)


def assert_moved(network: Eomt, before: dict[str, np.ndarray], theirs: Eomt) -> None:
    values = {variable.path: variable.numpy() for variable in theirs.variables}
    for variable in network.variables:
        expected = values[variable.path]
        if "heads/classes/" in variable.path:
            expected, source = before[variable.path].copy(), expected
            for ours, their in CLASSES.items():
                expected[..., ours] = source[..., their]
        np.testing.assert_array_equal(variable.numpy(), expected, err_msg=variable.path)


def values(network: Eomt) -> dict[str, np.ndarray]:
    return {variable.path: variable.numpy().copy() for variable in network.variables}


def test_the_class_axes_are_those_of_the_variables(folder: Path) -> None:
    network = build(folder)
    shapes = {variable.path: variable.shape for variable in network.variables}
    axes = network.class_axes()
    assert len(axes) == 2
    assert all(shapes[path][axis.axis] == axis.size for path, axis in axes.items())


def test_rows_from_a_folder_of_hugging_face(folder: Path) -> None:
    network = build(folder)
    before = values(network)
    loaded = load_initial_weights(network, EXPERIMENT, str(folder))
    assert_moved(network, before, load_network(folder, COCO))
    assert f"{len(network.variables) - 2} variables whole, 2 in part (rows of 2 of 3 categories: person" in str(loaded)


def test_the_names_of_a_folder_go_before_those_of_coco(folder: Path, tmp_path: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["id2label"] = {str(number): f"part {number}" for number in range(133)} | {"7": "gnome"}
    named = tmp_path / "named"
    named.mkdir()
    (named / "config.json").write_text(json.dumps(config))
    (named / "model.safetensors").symlink_to(folder / "model.safetensors")
    loaded = load_initial_weights(build(folder), EXPERIMENT, str(named))
    assert loaded.fit is not None
    assert loaded.fit.kept == ("gnome",)
    assert loaded.fit.rows["eomt/heads/classes/bias"].theirs.tolist() == [7, 133]


def test_everything_is_asked_for_with_strict(folder: Path) -> None:
    with pytest.raises(RunError, match=r"class_predictor\.weight has shape \[134, 64\] in the folder"):
        weights.initialize(build(folder), str(folder), strict=True)
    weights.initialize(build(folder, COCO), str(folder), strict=True)


def test_another_number_of_queries_loads_the_rest_and_another_backbone_nothing(folder: Path) -> None:
    loaded = load_initial_weights(build(folder, COCO, num_queries=7), EXPERIMENT, str(folder))
    assert loaded.fit is not None
    assert [*loaded.fit.missing] == ["eomt/queries/queries"]
    network = build(folder, COCO, hidden_size=32)
    before = values(network)
    with pytest.raises(RunError, match="eomt/block0/norm1/gamma does not fit"):
        load_initial_weights(network, EXPERIMENT, str(folder))
    for path, value in values(network).items():
        np.testing.assert_array_equal(value, before[path])


def test_rows_from_an_own_checkpoint(folder: Path, tmp_path: Path) -> None:
    from panoptic_cli.training.schedules import build_optimizer
    from panoptic_cli.training.step import TrainingModel
    from panoptic_cli.weights.checkpoints import Checkpoints

    theirs = load_network(folder, COCO)
    config = load_experiment("panoptic_fpn_shapes")
    model = TrainingModel(theirs, config, "cpu")
    optimizer = build_optimizer(config.trainer.optimizer_config, 9)
    optimizer.build(model.trainable_variables)
    model.compile(optimizer=optimizer)
    prefix = Checkpoints(str(tmp_path), model, optimizer).save(3)
    network = build(folder)
    before = values(network)
    assert "step 3" in str(load_initial_weights(network, EXPERIMENT, prefix))
    assert_moved(network, before, theirs)
