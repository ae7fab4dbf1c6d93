"""Fine-tuning on other categories: those with the same name start where they were."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from panoptic_cli.categories import CategoryTable
from panoptic_cli.config import Experiment, load_experiment

RENAMED = {"square": "block", "grass": "meadow"}
KEPT = ("circle", "triangle", "sky", "water")
STAR = {"id": 40, "name": "star", "isthing": 1, "color": [9, 9, 9], "supercategory": "shape"}
TUNING_STEPS = 30
STEPS = 120  # the preset has 300; PQ of the kept categories is 78 instead of 86 then
pytestmark = pytest.mark.slow


def make_records(data: Path) -> Path:
    from panoptic_cli.coco import layout
    from panoptic_cli.records.conversion import convert_all
    from panoptic_cli.records.plans import ConversionPlan

    folder = data / "tfrecords"
    convert_all([ConversionPlan(files, folder, 1) for files in layout.find_splits(data)], workers=1)
    return folder


def with_other_categories(data: Path, folder: Path) -> Path:
    """A copy of a data set, in which two categories have other names and one is new."""
    shutil.copytree(data, folder, ignore=shutil.ignore_patterns("tfrecords"))
    for path in (folder / "annotations").glob("*_*2017.json"):
        content = json.loads(path.read_text())
        for category in content["categories"]:
            category["name"] = RENAMED.get(category["name"], category["name"])
        content["categories"].insert(0, STAR)
        path.write_text(json.dumps(content))
    return folder


def configure(records: Path, steps: int, **options: Any) -> Experiment:
    settings = {
        "task.train_data.input_path": f"{records}/train-*",
        "task.validation_data.input_path": f"{records}/val-*",
        "trainer.train_steps": steps,
        **options,
    }
    return load_experiment("panoptic_fpn_shapes", options=list(settings.items()))


def quality(experiment: Experiment, table: CategoryTable, source: str, *, initial: bool = False) -> dict[str, float]:
    """Returns PQ in percent by name; with `initial`, that of a network which got only its initial weights."""
    import keras

    from panoptic_cli import models
    from panoptic_cli.evaluation.evaluator import Evaluator
    from panoptic_cli.inference.predictor import LoadedModel, load_model
    from panoptic_cli.training.initial_weights import load_initial_weights

    if initial:
        keras.utils.set_random_seed(0)
        network = models.create_network(experiment, table)
        assert experiment.task.init_checkpoint is not None
        load_initial_weights(network, experiment, experiment.task.init_checkpoint)
        model = LoadedModel(experiment, table, network, source, None)
    else:
        model = load_model(experiment, table, source)
    per_class = Evaluator(model).evaluate().to_dict()["panoptic"]["per_class"]
    return {table.by_id[int(i)].name: 100 * figures["pq"] for i, figures in per_class.items()}


def mean(qualities: dict[str, float], names: tuple[str, ...]) -> float:
    return sum(qualities[name] for name in names) / len(names)


def test_kept_categories_start_near_where_they_were(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from panoptic_cli.demo import shapes
    from panoptic_cli.runs.categories import load_categories
    from panoptic_cli.training import trainer

    shapes.generate(tmp_path / "old", train=400, val=30, seed=0)
    records = make_records(tmp_path / "old")
    first = configure(records, STEPS)
    table = load_categories(first)
    trainer.train(first, tmp_path / "run", table)
    before = quality(first, table, str(tmp_path / "run"))
    capsys.readouterr()

    others = make_records(with_other_categories(tmp_path / "old", tmp_path / "new"))
    second = configure(others, TUNING_STEPS, **{"task.init_checkpoint": str(tmp_path / "run")})
    new_table = load_categories(second)
    start = quality(second, new_table, "initial", initial=True)
    trainer.train(second, tmp_path / "tuned", new_table)
    told = " ".join(capsys.readouterr().err.split())
    assert "8 in part (rows of 4 of 7 categories: circle, triangle, sky, water), 0 not at all" in told
    tuned = quality(second, new_table, str(tmp_path / "tuned"))
    scratch = configure(others, TUNING_STEPS)
    trainer.train(scratch, tmp_path / "scratch", new_table)
    plain = quality(scratch, new_table, str(tmp_path / "scratch"))

    report = {"before": before, "initial": start, "fine-tuned": tuned, "from scratch": plain}
    with capsys.disabled():
        for name, figures in report.items():
            print(f"\n{name}: " + ", ".join(f"{k} {v:.1f}" for k, v in sorted(figures.items())), end="")
    # Measured: 78.1 before, 73.6 with the initial weights (pixels of the renamed kinds of stuff are taken for the
    # others), 79.9 fine-tuned, 25.9 from scratch.
    assert mean(start, KEPT) > 0.85 * mean(before, KEPT)
    assert mean(tuned, KEPT) > 0.9 * mean(before, KEPT)
    assert mean(plain, KEPT) < 0.5 * mean(before, KEPT)
    assert mean(tuned, tuple(RENAMED.values())) > mean(plain, tuple(RENAMED.values()))
