"""Files and folders are written atomically; unreadable JSON is one error."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import pytest

from panoptic_cli.errors import DataError
from panoptic_cli.files import atomic_path, read_json


def test_a_full_disk_is_reported_with_the_path(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=f"No space left on device: '{tmp_path}/file'"), atomic_path(tmp_path / "file"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_an_error_while_writing_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_text("old")

    def write() -> None:
        with atomic_path(target) as partial:
            partial.write_text("ne")
            raise ValueError("half way")

    with pytest.raises(ValueError, match="half way"):
        write()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize(
    "content",
    [b"{", b"\xff", b'"\xff"', b"1" * 5000, b"[" * 100_000],
    ids=["cut short", "not text", "not UTF-8", "5000 digits", "100,000 brackets"],
)
def test_invalid_json_is_one_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"The manifest file {re.escape(str(path))} is not valid JSON"):
        read_json(path, "manifest")
    with pytest.raises(DataError, match="cannot be read"):
        read_json(tmp_path, "manifest")
