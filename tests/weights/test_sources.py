"""What --checkpoint and --init-checkpoint name: a published name, an address or a path."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from panoptic_cli import config
from panoptic_cli.coco.official_categories import coco_panoptic_categories
from panoptic_cli.config.eomt import Eomt
from panoptic_cli.errors import UsageError
from panoptic_cli.models import check_categories, input_size
from panoptic_cli.weights import published
from panoptic_cli.weights.repository import Repository
from panoptic_cli.weights.sources import Source, find_source, source_of

TABLE = published.published_checkpoints()


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def told(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().err.split())


def test_a_name_is_a_single_word(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = find_source("panoptic_fpn_r50_3x")
    assert found == Source("panoptic_fpn_r50_3x", TABLE["panoptic_fpn_r50_3x"])
    assert found.is_fetched
    assert told(capsys) == ""


def test_a_path_of_that_name_wins_only_if_it_looks_like_one(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "panoptic_fpn_r50_3x").mkdir()
    assert find_source("panoptic_fpn_r50_3x").published is not None
    assert "the file or folder of this name here is ./panoptic_fpn_r50_3x" in told(capsys)
    for path in ("./panoptic_fpn_r50_3x", str(here / "panoptic_fpn_r50_3x"), "panoptic_fpn_r50_3x/"):
        assert find_source(path) == Source(path.rstrip("/"))


@pytest.mark.parametrize("path", ["run", "ckpt-7", "ckpt-7.index", "folder/ckpt-9", "gs://bucket/run", "../x/y"])
def test_paths_and_buckets_are_used_where_they_are(path: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "run").mkdir()
    (here / "ckpt-7.index").touch()
    found = find_source(path)
    assert found == Source(path)
    assert found.fetch() == found.cached() == found.description() == path
    assert told(capsys) == ""


def test_a_wrong_name_suggests_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"no checkpoint 'panoptic_fpn_r50_2x'.* Did you mean panoptic_fpn_r50_3x\?"):
        find_source("panoptic_fpn_r50_2x")
    with pytest.raises(UsageError, match=r"no checkpoint 'mine'.*panoptic models lists the published ones"):
        find_source("mine")


def test_the_address_of_a_published_checkpoint_is_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    for name, entry in TABLE.items():
        source = find_source(entry.source + "/", option="--init-checkpoint")
        assert source.published == entry
        assert dataclasses.replace(source, text=name) == source_of(entry)
        assert f"{entry.source} is the published checkpoint {name}." in told(capsys)


def test_a_backbone_only_initialises() -> None:
    assert find_source("resnet50_imagenet", option="--init-checkpoint").is_fetched
    with pytest.raises(UsageError, match=r"a backbone without heads.* panoptic train --init-checkpoint resnet50_"):
        find_source("resnet50_imagenet")


def test_repositories(here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_source("hf://someone/model@v1").repository == Repository("someone/model", "v1")
    assert find_source("someone/model") == Source("someone/model")  # a path
    entry = TABLE["panoptic_fpn_r50_1x"].model_copy(update={"source": "hf://someone/model"})
    monkeypatch.setattr(published, "published_checkpoints", lambda: {entry.name: entry})
    assert find_source("someone/model") == source_of(entry)
    assert "someone/model is no path here; it is the published checkpoint" in told(capsys)
    (here / "someone" / "model").mkdir(parents=True)
    assert find_source("someone/model") == Source("someone/model")


@pytest.mark.parametrize("name", TABLE)
def test_an_entry_is_complete(name: str) -> None:
    entry = TABLE[name]
    assert re.fullmatch(r"[a-z0-9_]+", name)
    assert entry.licence in ("Apache-2.0", "MIT")
    assert (entry.pq is None) == entry.is_backbone == (entry.table() is None)
    if entry.experiment is None:
        return
    experiment = config.load_experiment(entry.experiment, schedule=entry.schedule)
    assert input_size(experiment) == entry.input_size
    table = entry.table()
    assert table is not None
    check_categories(experiment, table)


@pytest.mark.parametrize(
    "change", [{"source": "http://x/y"}, {"parameters": 0}, {"colour": 1}, {"categories": None}, {"licence": None}]
)
def test_a_wrong_entry_is_refused(change: dict[str, Any]) -> None:
    text = (Path(published.__file__).parent / "published.yaml").read_text()
    entry = yaml.safe_load(text)["panoptic_fpn_r50_1x"]
    assert published.read_table({"a": entry})["a"].name == "a"
    with pytest.raises(ValidationError):
        published.read_table({"a": entry | change})


@pytest.mark.parametrize("name", [name for name, entry in TABLE.items() if not entry.is_backbone])
def test_the_figures_are_those_of_the_presets_head(name: str) -> None:
    """Two files say them; the README has its own test."""
    entry = TABLE[name]
    text = (Path(config.__file__).parent / "presets" / f"{entry.experiment}.yaml").read_text()
    head = re.sub(r"\s*\n#\s*", " ", text.partition("\nconfig:")[0])
    if entry.schedule is None:
        assert f"PQ {entry.pq} on val2017" in head
        assert f"{entry.source.removeprefix('hf://')}, {entry.licence} licence" in head
    else:
        (line,) = [line for line in text.splitlines() if line.startswith(f"#   {entry.schedule} (")]
        assert [float(number) for number in re.findall(r"\d+\.\d+", line)] == list(entry.figures.values())


def test_cocos_categories_are_packaged() -> None:
    table = coco_panoptic_categories()
    ids = [category.id for category in table.categories]
    assert (len(table.things), len(table.stuff), ids) == (80, 53, sorted(ids))
    assert (table.by_id[1].name, table.by_id[1].color, table.by_id[200].name) == ("person", (220, 20, 60), "rug-merged")
    assert table.max_id == 200


@pytest.mark.shared
def test_cocos_categories_are_those_of_its_annotations(coco100: Path) -> None:
    from panoptic_cli.categories import read_categories

    for split in ("train", "val"):
        assert read_categories(coco100 / f"annotations/panoptic_{split}2017.json") == coco_panoptic_categories()


def test_the_parameters_are_those_of_panoptic_fpn() -> None:
    """The shapes of the reference's variables are among the figures of the conformance tests."""
    figures = Path(__file__).parents[1] / "conformance" / "reference" / "variables.json"
    shapes = json.loads(figures.read_text())["variables"]
    backbone = sum(math.prod(shape) for key, shape in shapes.items() if key.startswith("backbone/"))
    assert TABLE["panoptic_fpn_r50_1x"].parameters == sum(math.prod(shape) for shape in shapes.values())
    assert TABLE["resnet50_imagenet"].parameters == backbone


def _parameters_of_eomt(settings: Eomt, classes: int) -> int:
    """Counts the weights of the network that the paper describes, layer by layer."""
    width, patch = settings.hidden_size, settings.patch_size

    def dense(inputs: int, outputs: int) -> int:
        return inputs * outputs + outputs

    norm = 2 * width
    tokens = (1 + settings.num_register_tokens + (settings.image_size // patch) ** 2 + settings.num_queries) * width
    if settings.use_swiglu_ffn:
        hidden = (int(width * settings.mlp_ratio * 2 / 3) + 7) // 8 * 8
        mlp = dense(width, 2 * hidden) + dense(hidden, width)
    else:
        mlp = dense(width, 4 * width) + dense(4 * width, width)
    block = 4 * dense(width, width) + 2 * norm + 2 * width + mlp  # with two scales
    upscaling = settings.num_upscale_blocks * (dense(4 * width, width) + 9 * width + norm)
    heads = dense(width, classes + 1) + 3 * dense(width, width)
    return tokens + dense(3 * patch**2, width) + settings.num_hidden_layers * block + norm + upscaling + heads


@pytest.mark.parametrize("name", [name for name in TABLE if name.startswith("eomt")])
def test_the_parameters_are_those_of_eomt(name: str) -> None:
    settings = config.load_experiment(str(TABLE[name].experiment)).task.model.eomt
    assert TABLE[name].parameters == _parameters_of_eomt(settings, classes=133)


@pytest.mark.shared
def test_the_parameters_are_those_of_a_file(shared: Path) -> None:
    described = json.loads((shared / "conformance/eomt/forward/small/variables.json").read_text())
    buffers = ("attn_mask_probs", "criterion.empty_weight")
    counts = [math.prod(shape) for key, shape in described["shapes"].items() if key not in buffers]
    assert TABLE["eomt_small_640"].parameters == sum(counts)
