"""The categories that a configuration points to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fakes import TABLE

from panoptic_cli.categories import CategoryTable
from panoptic_cli.config import load_experiment
from panoptic_cli.errors import DataError
from panoptic_cli.runs.categories import load_categories
from panoptic_cli.runs.model_source import find_model

OTHER = CategoryTable(TABLE.categories[:1])


def test_the_file_beside_the_records_unless_another_is_given(tmp_path: Path) -> None:
    (tmp_path / "categories.json").write_text(json.dumps(TABLE.to_list()))
    (tmp_path / "other.json").write_text(json.dumps({"categories": OTHER.to_list(), "images": []}))
    records = ("task.train_data.input_path", f"{tmp_path}/train-*, /elsewhere/train-*")
    assert load_categories(load_experiment(options=[records])) == TABLE
    given = ("task.categories_file", str(tmp_path / "other.json"))
    assert load_categories(load_experiment(options=[records, given])) == OTHER


@pytest.mark.parametrize("pattern", ["{}", "{}/train-*", "{}/train-*,/elsewhere/*"])
def test_folders_of_any_name(tmp_path: Path, pattern: str) -> None:
    folder = tmp_path / "a, b [2]"
    folder.mkdir()
    (tmp_path / "ckpt-1.index").touch()
    (folder / "train-00000-of-00001.tfrecord").touch()
    (folder / "categories.json").write_text(json.dumps(TABLE.to_list()))
    records = ("task.train_data.input_path", pattern.format(folder))
    assert load_categories(load_experiment(options=[records])) == TABLE
    validation = ("task.validation_data.input_path", records[1])
    assert find_model(None, f"{tmp_path}/ckpt-1", options=[validation], experiment="panoptic_fpn_shapes").table == TABLE


def test_a_missing_file(tmp_path: Path) -> None:
    records = ("task.train_data.input_path", f"{tmp_path}/train-*")
    with pytest.raises(DataError, match=f"beside the training records: {tmp_path}/categories.json does not exist"):
        load_categories(load_experiment(options=[records]))
    given = ("task.categories_file", str(tmp_path / "other.json"))
    with pytest.raises(DataError, match=f"no categories file: {tmp_path}/other.json does not exist"):
        load_categories(load_experiment(options=[records, given]))


def test_the_file_beside_records_in_a_bucket(tmp_path: Path) -> None:
    import tensorflow as tf

    (tmp_path / "ckpt-1.index").touch()
    tf.io.gfile.makedirs("ram://beside/records")
    with tf.io.gfile.GFile("ram://beside/records/categories.json", "w") as file:
        file.write(json.dumps(TABLE.to_list()))
    records = ("task.validation_data.input_path", "ram://beside/records/val-*")
    source = find_model(None, f"{tmp_path}/ckpt-1", experiment="panoptic_fpn_shapes", options=[records])
    assert source.table == TABLE
