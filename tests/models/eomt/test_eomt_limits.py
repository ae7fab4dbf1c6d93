"""What a configuration of EoMT cannot hold of a data set, and the size of its input."""

from __future__ import annotations

import numpy as np
import pytest

from panoptic_cli import config, models
from panoptic_cli.errors import ConfigError
from panoptic_cli.records.sample import DataSample


@pytest.mark.parametrize(
    ("segments", "keys"),
    [
        (24, []),
        (25, ["task.train_data.parser.max_num_instances", "task.model.eomt.num_queries"]),
    ],
)
def test_more_segments_than_places_are_told(segments: int, keys: list[str]) -> None:
    sample = DataSample(most_objects=3, most_segments=segments, stuff_areas=np.array([5]))
    found = models.data_warnings(config.load_experiment("eomt_shapes"), sample)
    assert [key for key, line in zip(keys, found, strict=True) if key in line] == keys


def test_the_input_is_a_square_of_whole_patches() -> None:
    experiment = config.load_experiment("eomt_shapes")
    assert models.input_size(models.with_input_size(experiment, 64, 64)) == (64, 64)
    with pytest.raises(ConfigError, match="square"):
        models.with_input_size(experiment, 64, 128)
    with pytest.raises(ConfigError, match="multiple of patch_size 16"):
        models.with_input_size(experiment, 100, 100)


def test_a_run_keeps_the_sections_of_its_family_alone() -> None:
    for name in config.preset_names():
        experiment = config.load_experiment(name)
        tree = experiment.model_dump(mode="json")
        assert ("eomt" in tree["task"]["model"]) == ("backbone" not in tree["task"]["model"])
        assert config.validate(tree, name) == experiment
