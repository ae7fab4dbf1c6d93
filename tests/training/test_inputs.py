"""What a user may give a training, found to be wrong before anything starts: one error each."""

from __future__ import annotations

import json

import pytest
from fakes import TABLE

from panoptic_cli import config
from panoptic_cli.errors import ConfigError, DataError, RunError
from panoptic_cli.training import inputs

TRAIN_DATA = ("task.train_data.input_path", "records/train-*")


@pytest.mark.parametrize(("content", "section"), [("task:\n", "task"), ("task: {train_data: 5}\n", "task.train_data")])
def test_a_file_with_a_value_for_a_section(tmp_path, content, section):
    file = tmp_path / "config.yaml"
    file.write_text(content)
    with pytest.raises(ConfigError, match=f"input_path is below {section}, which is a value"):
        config.load_experiment(config_file=file, options=[TRAIN_DATA])


def test_what_looks_like_a_date_and_is_none(tmp_path):
    settings = ["task.train_data.input_path=2026-13-45"]
    assert config.load_experiment(settings=settings).task.train_data.input_path == "2026-13-45"
    file = tmp_path / "config.yaml"
    file.write_text("task: {train_data: {input_path: 2026-13-45}}\n")
    with pytest.raises(ConfigError, match="is not valid YAML: month must be"):
        config.load_experiment(config_file=file)


def test_initial_weights_in_what_can_be_no_bucket():
    with pytest.raises(RunError, match=r"gs://my bucket/ckpt-1 cannot be reached: .*control characters"):
        inputs.check_init_checkpoint("gs://my bucket/ckpt-1")


def test_an_annotation_file_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match=r"nowhere\.json do not exist"):
        inputs.check_annotation_file(str(tmp_path / "nowhere.json"))
    with pytest.raises(DataError, match="do not exist"):
        inputs.check_annotation_file(str(tmp_path))


def test_the_data_have_a_seed_of_their_own_or_that_of_the_training():
    assert config.load_experiment(settings=["trainer.seed=7"]).data_seed == 7
    assert config.load_experiment(settings=["trainer.seed=7", "task.train_data.seed=0"]).data_seed == 0


def test_the_categories_beside_records_in_a_bucket(tmp_path):
    import tensorflow as tf
    from panoptic_cli.commands.model_source import find_model

    tf.io.gfile.makedirs("ram://beside/records")
    with tf.io.gfile.GFile("ram://beside/records/categories.json", "w") as file:
        file.write(json.dumps(TABLE.to_list()))
    records = ("task.validation_data.input_path", "ram://beside/records/val-*")
    source = find_model(None, f"{tmp_path}/ckpt-1", experiment="panoptic_fpn_shapes", options=[records])
    assert source.table == TABLE
