"""Words of messages."""

from __future__ import annotations

import pytest

from panoptic_cli.errors import counted


@pytest.mark.parametrize(
    ("count", "phrase", "expected"),
    [
        (0, "pictures", "0 pictures"),
        (1, "pictures", "1 picture"),
        (2500, "pictures are left out", "2,500 pictures are left out"),
        (1, "pictures are left out", "1 picture is left out"),
        (1, "categories have no name", "1 category has no name"),
        (1, "classes", "1 class"),
        (1, "boxes, which are wrong", "1 box, which are wrong"),  # only the verb right after it
        (1, "previous file names with folders", "1 previous file name with folders"),
        (1, "GPUs", "1 GPU"),
        (1, "data", "1 data"),
    ],
)
def test_counted(count: int, phrase: str, expected: str) -> None:
    assert counted(count, phrase) == expected
