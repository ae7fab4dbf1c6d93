"""Fixtures for the tests of EoMT."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from panoptic_cli.categories import CategoryTable

if TYPE_CHECKING:
    from panoptic_cli.models.eomt.network import Eomt


@pytest.fixture(autouse=True)
def _float32(float32_policy: None) -> None:
    """All tests of this folder compute in float32, unless they set another policy."""


@pytest.fixture(scope="session")
def table() -> CategoryTable:
    """133 categories; the first 80 are things, as in COCO."""
    entries = [{"id": number, "name": f"category {number}", "isthing": number <= 80} for number in range(1, 134)]
    return CategoryTable.from_list(entries, "test")


@pytest.fixture(scope="session")
def folders(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Returns the folder of a shared network's checkpoint, written once."""
    from eomt_checkpoints import write_checkpoint

    written: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in written:
            written[name] = write_checkpoint(name, tmp_path_factory.mktemp("eomt") / name)
        return written[name]

    return folder


@pytest.fixture(scope="session")
def load(folders: Callable[[str], Path], table: CategoryTable) -> Callable[[str], Eomt]:
    """Returns a shared network with its weights, in the current precision."""
    from eomt_checkpoints import load_network

    return lambda name: load_network(folders(name), table)
