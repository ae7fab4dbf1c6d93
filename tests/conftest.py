"""Fixtures that several test modules share."""

from __future__ import annotations

from pathlib import Path

import pytest

from panoptic_cli import console

SHARED = Path(__file__).resolve().parents[2] / "shared"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    missing = pytest.mark.skip(reason=f"reference data not found: {SHARED} is absent")
    for item in items:
        if "shared" in item.keywords and not SHARED.is_dir():
            item.add_marker(missing)


@pytest.fixture(autouse=True)
def _default_console() -> None:
    console.configure(verbosity=0, json_output=False)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with reference figures and coco100 (mark the test `shared`)."""
    return SHARED


@pytest.fixture(scope="session")
def coco100(shared: Path) -> Path:
    """Real COCO: 100 training and 50 validation pictures with panoptic and instance annotations."""
    return shared / "data" / "coco100"


@pytest.fixture(scope="session")
def shapes_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The generated shapes set: 12 training pictures (two with a crowd) and 4 validation pictures."""
    from panoptic_cli.datasets import shapes

    folder = tmp_path_factory.mktemp("shapes_set") / "shapes"
    shapes.generate(folder, train=12, val=4, seed=3)
    return folder


@pytest.fixture(scope="session")
def shapes_records(shapes_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the records of `shapes_dir`: train in 3 shards, val in 1."""
    from panoptic_cli.datasets.coco import read_dataset
    from panoptic_cli.datasets.conversion import ConversionPlan, convert
    from panoptic_cli.datasets.layout import coco_files

    folder = tmp_path_factory.mktemp("shapes_records")
    for split, shards in (("train", 3), ("val", 1)):
        files = coco_files(shapes_dir, split)
        convert(ConversionPlan(files, folder, shards), read_dataset(files), workers=1)
    return folder
