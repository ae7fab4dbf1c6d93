"""Configuration: presets, overrides in both forms, errors all at once, dump and reload."""

from __future__ import annotations

import pytest
import yaml

from panoptic_cli import config
from panoptic_cli.errors import ConfigError


def test_every_preset_validates_and_survives_dump_and_reload() -> None:
    assert {"panoptic_fpn_coco", "panoptic_fpn_shapes"} <= set(config.preset_names())
    for name in config.preset_names():
        experiment = config.load_experiment(name)
        assert config.validate(yaml.safe_load(config.dump(experiment)), "dump") == experiment


@pytest.mark.parametrize(
    ("schedule", "steps", "boundaries"), [("1x", 22_500, (15_000, 20_000)), ("3x", 67_500, (45_000, 60_000))]
)
def test_schedules_are_the_references(schedule: str, steps: int, boundaries: tuple[int, int]) -> None:
    trainer = config.load_experiment(schedule=schedule).trainer
    rate = trainer.optimizer_config.learning_rate.stepwise
    warmup = trainer.optimizer_config.warmup.linear
    assert (trainer.train_steps, rate.boundaries, rate.values) == (steps, boundaries, (0.12, 0.012, 0.0012))
    assert (warmup.warmup_steps, warmup.warmup_learning_rate) == (500, 0.0067)


def test_the_references_override_lines_work_as_they_stand() -> None:
    text = (
        "task.validation_data.input_path=gs://bucket/val*, \\\n"
        "task.train_data.input_path=gs://bucket/train*, \n"
        "task.annotation_file=instances.json, \n"
        "runtime.distribution_strategy=mirrored, \n"
        "runtime.mixed_precision_dtype=float16, \n"
        "runtime.num_gpus=8,"
    ).replace("\\\n", "\n")
    experiment = config.load_experiment(params_override=config.split_params(text))
    assert experiment.task.validation_data.input_path == "gs://bucket/val*"
    assert experiment.task.train_data.input_path == "gs://bucket/train*"
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


def test_later_sources_win(tmp_path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("trainer: {train_steps: 1, seed: 1, max_to_keep: 1, summary_interval: 1}\n")
    trainer = config.load_experiment(
        config_file=file,
        params_override=["trainer.seed=2", "trainer.max_to_keep=2", "trainer.summary_interval=2"],
        settings=["trainer.max_to_keep=3", "trainer.summary_interval=3"],
        options=[("trainer.summary_interval", 4)],
    ).trainer
    assert (trainer.train_steps, trainer.seed, trainer.max_to_keep, trainer.summary_interval) == (1, 2, 3, 4)


def test_all_problems_are_reported_at_once_with_keys_and_suggestions() -> None:
    with pytest.raises(ConfigError) as caught:
        config.load_experiment(
            settings=["task.modle.num_classes=3", "trainer.train_steps=-1", "task.model.input_size=[500,500,3]"]
        )
    message = str(caught.value)
    assert "3 problems" in message
    assert "task.modle: unknown key (did you mean model?)" in message
    assert "trainer.train_steps" in message
    assert "multiples of 64" in message


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"settings": ["novalue"]}, "key.subkey=value"),
        ({"settings": ["trainer.seed=1", "trainer.seed.deeper=1"]}, "trainer.seed"),
        ({"experiment": "panoptic_fpn_coc"}, "Did you mean panoptic_fpn_coco?"),
        ({"schedule": "9x"}, "1x, 3x"),
        ({"settings": ["trainer.seed=nan", "task.losses.mask_weight=.inf"]}, "mask_weight"),
    ],
)
def test_wrong_input_is_a_config_error(arguments: dict, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config.load_experiment(**arguments)
    assert text in str(caught.value)


@pytest.mark.parametrize("content", ["{", "[1, 2]", "trainer: {unknown: 1}"])
def test_broken_config_files_are_named(tmp_path, content: str) -> None:
    file = tmp_path / "broken.yaml"
    file.write_text(content)
    with pytest.raises(ConfigError, match=r"broken\.yaml"):
        config.load_experiment(config_file=file)


def test_configs_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        config.load_experiment().trainer.seed = 3  # type: ignore[misc]


def test_differences_name_the_keys() -> None:
    ours = config.load_experiment(settings=["trainer.seed=3"])
    assert config.differences(ours, config.load_experiment()) == ["trainer.seed: 3 here, 0 there"]
