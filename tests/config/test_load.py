"""Loading a configuration: presets, files, the order of sources, errors, dump and comparison."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from panoptic_cli import config
from panoptic_cli.config import load
from panoptic_cli.errors import ConfigError


def test_every_preset_validates_and_survives_dump_and_reload() -> None:
    assert {"panoptic_fpn_coco", "panoptic_fpn_shapes"} <= set(config.preset_names())
    for name in config.preset_names():
        experiment = config.load_experiment(name)
        assert config.validate(yaml.safe_load(config.dump(experiment)), "dump") == experiment


@pytest.mark.parametrize(
    ("schedule", "steps", "boundaries"), [("1x", 22_500, (15_000, 20_000)), ("3x", 67_500, (45_000, 60_000))]
)
def test_schedules_are_those_of_the_reference(schedule: str, steps: int, boundaries: tuple[int, int]) -> None:
    trainer = config.load_experiment(schedule=schedule).trainer
    rate = trainer.optimizer_config.learning_rate.stepwise
    warmup = trainer.optimizer_config.warmup.linear
    assert (trainer.train_steps, rate.boundaries, rate.values) == (steps, boundaries, (0.12, 0.012, 0.0012))
    assert (warmup.warmup_steps, warmup.warmup_learning_rate) == (500, 0.0067)


def test_later_sources_win(tmp_path: Path) -> None:
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
    assert "trainer.train_steps: must be greater than 0, not -1" in message
    assert "multiples of 64" in message


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"settings": ["trainer.seed=1", "trainer.seed.deeper=1"]}, "trainer.seed, which is a value"),
        ({"experiment": "resnet"}, "panoptic_fpn_coco, panoptic_fpn_shapes"),
        ({"experiment": "panoptic_fpn_coc"}, "Did you mean panoptic_fpn_coco?"),
        ({"schedule": "9x"}, "1x, 3x"),
        ({"settings": ["trainer.seed=nan", "task.losses.mask_weight=.inf"]}, "mask_weight"),
    ],
)
def test_wrong_input_is_a_config_error(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config.load_experiment(**arguments)
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{", "is not valid YAML: line 1, column 2"),
        (b"a: 2001-99-99", "is not valid YAML: month must be in"),
        (b"\xff", "is not valid YAML: 'utf-8' codec"),
        (b"[1, 2]", "must be a mapping"),
        (b"trainer: {unknown: 1}", "trainer.unknown: unknown key (known: train_steps,"),
        (b"config: {}\ntask: {}\ntrainer: {}", "has task, trainer at the same level as config"),
        (b"config: 3", "config must be a mapping"),
        (b"config: {}\nschedules: [1x]", "schedules must be a mapping"),
    ],
)
def test_broken_config_files_are_named(tmp_path: Path, content: bytes, words: str) -> None:
    file = tmp_path / "broken.yaml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"broken\.yaml") as caught:
        config.load_experiment(config_file=file)
    assert words in str(caught.value)


def test_an_empty_config_file_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "empty.yaml"
    file.write_text("# nothing yet\n")
    assert config.load_experiment(config_file=file) == config.load_experiment()


def test_a_copy_of_a_preset_is_a_config_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "copy.yaml"
    file.write_text("config: {trainer: {seed: 7}}\nschedules: {9x: {trainer: {seed: 8}}}\n")
    for _ in range(2):
        assert config.load_experiment(config_file=file).trainer.seed == 7
    assert capsys.readouterr().err == f"{file} has the form of a preset: using its config section, not its schedules.\n"


def test_a_preset_without_schedules_is_a_plain_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "_presets", lambda: tmp_path)
    (tmp_path / "plain.yaml").write_text("trainer: {seed: 7}\n")
    assert config.load_experiment("plain").trainer.seed == 7
    with pytest.raises(ConfigError, match="Its schedules: none"):
        config.load_experiment("plain", schedule="1x")
    (tmp_path / "plain.yaml").write_text("- 1\n")
    with pytest.raises(ConfigError, match="plain must be a mapping"):
        config.load_experiment("plain")


def test_configs_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        config.load_experiment().trainer.seed = 3


def test_differences_have_key_and_both_values() -> None:
    ours = config.load_experiment(settings=["trainer.seed=3", "runtime.num_gpus=2"])
    gpus, seed = config.differences(ours, config.load_experiment())
    assert (gpus.key, gpus.ours, gpus.theirs) == ("runtime.num_gpus", 2, None)
    assert str(seed) == "trainer.seed: 3 here, 0 there"
