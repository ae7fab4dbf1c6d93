"""Values of a configuration that are easy to get wrong, and values that follow from others."""

from __future__ import annotations

from pathlib import Path

import pytest

from panoptic_cli import config
from panoptic_cli.errors import ConfigError


@pytest.mark.parametrize(("content", "section"), [("task:\n", "task"), ("task: {train_data: 5}\n", "task.train_data")])
def test_a_file_with_a_value_for_a_section(tmp_path: Path, content: str, section: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(content)
    with pytest.raises(ConfigError, match=rf"input_path.* {section}\b.* a value"):
        config.load_experiment(config_file=file, options=[("task.train_data.input_path", "records/train-*")])


def test_a_text_that_looks_like_a_date_is_a_text_on_the_command_line(tmp_path: Path) -> None:
    settings = ["task.train_data.input_path=2026-13-45"]
    assert config.load_experiment(settings=settings).task.train_data.input_path == "2026-13-45"
    file = tmp_path / "config.yaml"
    file.write_text("task: {train_data: {input_path: 2026-13-45}}\n")
    with pytest.raises(ConfigError, match="is not valid YAML: month must be"):
        config.load_experiment(config_file=file)


def test_the_seed_of_the_data_is_that_of_the_training_unless_it_is_set() -> None:
    assert config.load_experiment(settings=["trainer.seed=7"]).data_seed == 7
    assert config.load_experiment(settings=["trainer.seed=7", "task.train_data.seed=0"]).data_seed == 0
