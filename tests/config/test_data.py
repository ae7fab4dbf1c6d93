"""Default places of the records."""

from __future__ import annotations

from pathlib import Path

import pytest

from panoptic_cli.config import default_records


@pytest.mark.parametrize("data_dir", ["data/coco", "data/coco/", Path("data/coco")])
def test_records_are_below_the_data_folder(data_dir: str | Path) -> None:
    assert default_records(data_dir) == ("data/coco/tfrecords/train-*", "data/coco/tfrecords/val-*")


@pytest.mark.parametrize("data_dir", ["gs://bucket/coco/", Path("gs://bucket/coco")])  # pathlib makes gs:/ of gs://
def test_the_data_folder_may_be_in_a_bucket(data_dir: str | Path) -> None:
    assert default_records(data_dir)[1] == "gs://bucket/coco/tfrecords/val-*"
