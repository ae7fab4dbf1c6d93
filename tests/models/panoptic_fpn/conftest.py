"""Fixtures for the tests of Panoptic FPN."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture(autouse=True)
def _float32(float32_policy: None) -> None:
    """All tests of this folder compute in float32."""


@pytest.fixture(scope="session")
def shapes_labels() -> Any:
    from panoptic_cli.categories import CategoryTable
    from panoptic_cli.demo.shapes import CATEGORIES
    from panoptic_cli.models.panoptic_fpn.label_space import LabelSpace

    return LabelSpace.create(CategoryTable.from_list(CATEGORIES, "shapes"))
