"""Receipts of extracted outputs: valid across runs; damaged ones are ignored with a warning."""

from __future__ import annotations

from pathlib import Path

import pytest

from panoptic_cli.transfer.extract import Extracted
from panoptic_cli.transfer.manifest import Archive, Output
from panoptic_cli.transfer.receipts import FILENAME, Receipts

OUTPUT = Output(members="a/", to="a/")
ARCHIVE = Archive(path="a.zip", sha256="0" * 64, outputs=(OUTPUT,))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1").write_bytes(b"one")
    receipts = Receipts(tmp_path)
    receipts.record(ARCHIVE, OUTPUT, Extracted(1, 3))
    receipts.set_temporary(ARCHIVE, True)
    return tmp_path


def test_the_next_run_reads_the_receipts(data: Path) -> None:
    receipts = Receipts(data)
    assert receipts.is_complete(ARCHIVE, OUTPUT)
    assert receipts.is_temporary(ARCHIVE)
    other = Archive(path="a.zip", sha256="1" * 64, outputs=(OUTPUT,))
    assert receipts.foreign(other, OUTPUT)
    assert not receipts.is_complete(other, OUTPUT)
    (data / "a" / "1").write_bytes(b"on")
    assert not receipts.is_complete(ARCHIVE, OUTPUT)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"outputs": {}}',
        '{"outputs": {"a/": {}}, "temporary": []}',
        '{"outputs": {"a/": {"archive": "x", "files": "many", "bytes": 3}}, "temporary": []}',
        '{"outputs": {"a/": {"archive": "x", "files": null, "bytes": 3}}, "temporary": []}',
        '{"outputs": {"a/": 7}, "temporary": []}',
        '{"outputs": {}, "temporary": [[]]}',
        "[" * 100_000,
    ],
)
def test_damaged_receipts_are_ignored_with_a_warning(data: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
    (data / FILENAME).write_text(text)
    receipts = Receipts(data)
    assert "cannot be read; existing files are checked from scratch" in capsys.readouterr().err
    assert not receipts.is_complete(ARCHIVE, OUTPUT)
    assert not receipts.foreign(ARCHIVE, OUTPUT)
