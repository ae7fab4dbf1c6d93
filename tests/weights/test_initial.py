"""Initial weights from a network with other categories or other heads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from panoptic_cli import models, weights
from panoptic_cli.categories import CategoryTable
from panoptic_cli.config import Experiment, load_experiment
from panoptic_cli.demo.shapes import CATEGORIES
from panoptic_cli.errors import RunError
from panoptic_cli.models.network import PanopticNetwork
from panoptic_cli.runs.run_directory import RunDirectory
from panoptic_cli.training.initial_weights import load_initial_weights
from panoptic_cli.training.schedules import build_optimizer
from panoptic_cli.training.step import TrainingModel
from panoptic_cli.weights.checkpoints import Checkpoints

pytestmark = pytest.mark.usefixtures("float32_policy")

OLD = CategoryTable.from_list(CATEGORIES, "old")  # things circle, square, triangle; stuff grass, sky, water
# In another order, with other ids: square and grass have other names, star is new, water is gone.
NEW = CategoryTable.from_list(
    [
        {"id": 1, "name": "star", "isthing": 1},
        {"id": 2, "name": "triangle", "isthing": 1},
        {"id": 3, "name": "sky", "isthing": 0},
        {"id": 4, "name": "box", "isthing": 1},
        {"id": 5, "name": "meadow", "isthing": 0},
        {"id": 6, "name": "circle", "isthing": 1},
    ],
    "new",
)
# (class in the new network, class in the old one); classes are numbered in table order, after the roles.
THINGS = {0: 0, 2: 3, 4: 1}  # background; triangle; circle
STUFF = {0: 0, 1: 1, 2: 3}  # void, thing; sky

Build = Callable[..., PanopticNetwork]


@pytest.fixture(scope="module")
def build(tiny_network: tuple[str, ...]) -> Build:
    def create(table: CategoryTable, *settings: str, seed: int = 0) -> PanopticNetwork:
        keras.utils.set_random_seed(seed)
        return models.create_network(experiment(tiny_network, *settings), table)

    return create


def experiment(*settings: Any) -> Experiment:
    flat = [one for group in settings for one in ([group] if isinstance(group, str) else group)]
    return load_experiment("panoptic_fpn_shapes", settings=flat)


def save(network: PanopticNetwork, folder: Path, decay: float | None = None) -> str:
    """Writes a checkpoint of random weights, and of random averages."""
    config = experiment(f"trainer.optimizer_config.ema.average_decay={'null' if decay is None else decay}")
    model = TrainingModel(network, config, "cpu")
    optimizer = build_optimizer(config.trainer.optimizer_config, 12)
    optimizer.build(model.trainable_variables)
    model.compile(optimizer=optimizer)
    rng = np.random.default_rng(1)
    for variable in [*network.variables, *model.averages]:
        variable.assign(rng.standard_normal(variable.shape))
    return Checkpoints(str(folder / "checkpoints"), model, optimizer).save(5)


@pytest.fixture(scope="module")
def old(build: Build) -> PanopticNetwork:
    return build(OLD, seed=1)


@pytest.fixture(scope="module")
def prefix(old: PanopticNetwork, tmp_path_factory: pytest.TempPathFactory) -> str:
    return save(old, tmp_path_factory.mktemp("old"))


def values(network: PanopticNetwork) -> dict[str, np.ndarray]:
    return {variable.path: variable.numpy().copy() for variable in network.variables}


def expected(before: dict[str, np.ndarray], old: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What the new network should have: written down row by row."""
    result = {name: old[name] for name in before if name not in _HEADS}
    for name, (classes, sides) in _HEADS.items():
        value = before[name].copy()
        for ours, theirs in classes.items():
            for side in range(sides):
                value[..., ours * sides + side] = old[name][..., theirs * sides + side]
        result[name] = value
    return result


_HEADS = {
    f"{layer}/{kind}": (classes, sides)
    for layer, classes, sides in (
        ("detection_head/classifier", THINGS, 1),
        ("detection_head/box_regressor", THINGS, 4),
        ("mask_head/mask_regressor", THINGS, 1),
        ("segmentation_head/classifier", STUFF, 1),
    )
    for kind in ("kernel", "bias")
}


def assert_equal(network: PanopticNetwork, expected: dict[str, np.ndarray]) -> None:
    found = values(network)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def assert_moved(network: PanopticNetwork, before: dict[str, np.ndarray], old: dict[str, np.ndarray]) -> None:
    assert_equal(network, expected(before, old))


def test_rows_of_the_same_categories_and_all_other_layers(build: Build, old: PanopticNetwork, prefix: str) -> None:
    network = build(NEW)
    before = values(network)
    loaded = weights.initialize(network, prefix)
    assert_moved(network, before, values(old))
    total = len(network.variables)
    assert (loaded.variables, loaded.step) == (total, 5)
    assert str(loaded) == (
        f"Loaded what fits from {prefix}, step 5: {total - 8} variables whole, 8 in part "
        "(rows of 3 of 6 categories: triangle, circle, sky), 0 not at all."
    )
    now = values(network)
    moved = sum(np.sum(now[name] != before[name]) for name in before)
    assert abs(loaded.parameters - moved) <= 64  # a new value may be the old one: zeros and ones
    assert loaded.to_dict()["new_categories"] == ["star", "box", "meadow"]


def test_the_same_categories_are_loaded_whole(build: Build, old: PanopticNetwork, prefix: str) -> None:
    network = build(OLD)
    loaded = weights.initialize(network, prefix, strict=True)
    assert str(loaded).startswith(f"Loaded the network from {prefix}: {len(network.variables)} variables")
    assert_equal(network, values(old))


def test_averages_are_preferred(build: Build, tmp_path: Path) -> None:
    old = build(OLD)
    prefix = save(old, tmp_path, decay=0.9)
    plain = build(OLD)
    weights.load_weights(plain, prefix)  # evaluation loads averages, too
    averages = values(plain)
    assert any(np.any(averages[name] != value) for name, value in values(old).items())
    network = build(NEW)
    before = values(network)
    assert "(averages)" in str(weights.initialize(network, prefix))
    assert_moved(network, before, values(plain))


@pytest.fixture
def unnamed(prefix: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The checkpoint as earlier versions wrote it, without its classes."""
    from panoptic_cli.weights import initial

    read = initial.read_layout
    monkeypatch.setattr(initial, "read_layout", lambda p: {k: v for k, v in read(p).items() if k != "classes"})
    return prefix


def test_without_categories_only_whole_layers_are_loaded(build: Build, old: PanopticNetwork, unnamed: str) -> None:
    network = build(NEW)
    before = values(network)
    line = str(weights.initialize(network, unnamed))
    assert "categories of the checkpoint are not known" in line
    assert "8 not at all" in line
    assert_equal(network, {**values(old), **{name: before[name] for name in _HEADS}})


def test_a_file_names_the_categories(
    build: Build, old: PanopticNetwork, unnamed: str, tmp_path: Path, tiny_network: tuple[str, ...]
) -> None:
    import json

    file = tmp_path / "old.json"
    file.write_text(json.dumps(OLD.to_list()))
    network = build(NEW)
    before = values(network)
    load_initial_weights(network, experiment(tiny_network, f"task.init_categories={file}"), unnamed)
    assert_moved(network, before, values(old))


def test_the_run_of_a_checkpoint_names_its_categories(
    build: Build, old: PanopticNetwork, unnamed: str, tiny_network: tuple[str, ...], shapes_records: Path
) -> None:
    run = RunDirectory(Path(unnamed).parents[1])
    run.start(experiment(tiny_network, f"task.train_data.input_path={shapes_records}/train-*"), OLD)
    try:
        for checkpoint in (run.path, unnamed):
            network = build(NEW)
            before = values(network)
            load_initial_weights(network, experiment(tiny_network), checkpoint)
            assert_moved(network, before, values(old))
    finally:
        run.withdraw()


def test_other_heads_load_what_fits(build: Build, old: PanopticNetwork, prefix: str) -> None:
    network = build(OLD, "task.model.mask_head.num_convs=2", "task.model.detection_head.fc_dims=16")
    before = values(network)
    loaded = weights.initialize(network, prefix)
    fit = loaded.fit
    assert fit is not None
    assert fit.missing["mask_head/conv1/kernel"] == "is not in the checkpoint"
    assert "detection_head/fc0/kernel" in fit.missing
    assert "detection_head/classifier/kernel" in fit.missing  # its width is that of the layer before it
    assert fit.unused == ()
    theirs = values(old)
    assert_equal(network, {name: before[name] if name in fit.missing else theirs[name] for name in before})
    with pytest.raises(RunError, match="--strict-init") as caught:
        weights.initialize(network, prefix, strict=True)
    assert "mask_head/conv1/kernel is not in the checkpoint" in str(caught.value)


def test_another_backbone_is_an_error_and_changes_nothing(build: Build, prefix: str) -> None:
    network = build(NEW, "task.model.backbone.resnet.depth_multiplier=0.5")
    before = values(network)
    with pytest.raises(RunError, match=r"backbone/stem_conv/kernel is \[7, 7, 3, 16\] in the checkpoint"):
        weights.initialize(network, prefix)
    assert_equal(network, before)


def test_strict_wants_the_same_categories(build: Build, prefix: str) -> None:
    same_numbers = [c | {"name": f"my {c['name']}"} for c in OLD.to_list()]
    with pytest.raises(RunError, match="has other categories in the checkpoint"):
        weights.initialize(build(CategoryTable.from_list(same_numbers, "")), prefix, strict=True)


def test_evaluation_stays_strict(build: Build, prefix: str) -> None:
    with pytest.raises(
        RunError, match=r"detection_head/classifier/kernel is \[32, 4\] in the checkpoint and \[32, 5\]"
    ):
        weights.load_weights(build(NEW), prefix)
