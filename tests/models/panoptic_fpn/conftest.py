"""Fixtures for the tests of Panoptic FPN."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture(autouse=True)
def _float32_policy() -> Iterator[None]:
    import keras

    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")
    yield
    keras.config.set_dtype_policy(before)


@pytest.fixture(scope="session")
def shapes_labels() -> Any:
    from panoptic_cli.categories import CategoryTable
    from panoptic_cli.demo.shapes import CATEGORIES
    from panoptic_cli.models.panoptic_fpn.label_space import LabelSpace

    return LabelSpace.create(CategoryTable.from_list(CATEGORIES, "shapes"))
