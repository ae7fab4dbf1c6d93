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
