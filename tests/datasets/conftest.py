"""A small generated data set, made once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from panoptic_cli.datasets import shapes


@pytest.fixture(scope="session")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 training and 6 validation pictures; do not change them."""
    folder = tmp_path_factory.mktemp("generated") / "shapes"
    shapes.generate(folder, train=12, val=6, seed=1)
    return folder


@pytest.fixture
def dataset(generated: Path, tmp_path: Path) -> Path:
    """A copy of `generated` to be broken."""
    return Path(shutil.copytree(generated, tmp_path / "data"))


@pytest.fixture
def mine(dataset: Path, tmp_path: Path) -> Path:
    """The validation split of `dataset`, laid out otherwise: pictures/, labels/ and labels.json."""
    folder = tmp_path / "mine"
    folder.mkdir()
    (dataset / "val2017").rename(folder / "pictures")
    (dataset / "panoptic_val2017").rename(folder / "labels")
    (dataset / "annotations" / "panoptic_val2017.json").rename(folder / "labels.json")
    return folder
