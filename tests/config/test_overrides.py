"""Overrides of single keys: --set and the comma form of --params-override."""

from __future__ import annotations

import pytest

from panoptic_cli import config
from panoptic_cli.errors import ConfigError


def test_override_lines_of_the_model_garden_work_unchanged() -> None:
    text = (
        "task.validation_data.input_path=gs://bucket/val*, \n"
        "task.train_data.input_path=gs://bucket/train*, \n"
        "task.annotation_file=instances.json, \n"
        "runtime.distribution_strategy=mirrored, \n"
        "runtime.mixed_precision_dtype=float16, \n"
        "runtime.num_gpus=8,"
    )
    experiment = config.load_experiment(params_override=config.split_params(text))
    assert experiment.task.validation_data.input_path == "gs://bucket/val*"
    assert experiment.task.train_data.input_path == "gs://bucket/train*"
    assert experiment.task.annotation_file == "instances.json"
    assert experiment.runtime.distribution_strategy == "mirrored"
    assert experiment.runtime.mixed_precision_dtype == "float16"
    assert experiment.runtime.num_gpus == 8


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a.b=1,c.d=2", ["a.b=1", "c.d=2"]),
        (" a.b = [1, 2] ,\n c=3,", ["a.b = [1, 2]", "c=3"]),
        ("path=a*,b*,c=1", ["path=a*,b*", "c=1"]),
        ("a='x,y',b={k: [1,2]}", ["a='x,y'", "b={k: [1,2]}"]),
        ("", []),
    ],
)
def test_split_params(text: str, parts: list[str]) -> None:
    assert config.split_params(text) == parts


@pytest.mark.parametrize(
    ("text", "value"),
    [("1", 1), ("[1, 2]", [1, 2]), ("true", True), ("None", None), ("~", None), ("", ""), ("2001-99-99", "2001-99-99")],
)
def test_values_are_yaml_or_text(text: str, value: object) -> None:
    tree: dict[str, object] = {}
    config.apply_overrides(tree, [f"a.b={text}"])
    assert tree == {"a": {"b": value}}


def test_a_mapping_is_merged_into_its_section() -> None:
    tree: dict[str, object] = {"a": {"b": 1, "c": 2}}
    config.apply_overrides(tree, ["a={c: 3, d: 4}"])
    assert tree == {"a": {"b": 1, "c": 3, "d": 4}}


@pytest.mark.parametrize(
    ("assignment", "words"),
    [("novalue", "key.subkey=value"), ("=1", "key.subkey=value"), ("seed.deeper=1", "seed, which is a value")],
)
def test_malformed_overrides_are_errors(assignment: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config.apply_overrides({"seed": 1}, [assignment])
    assert words in str(caught.value)
