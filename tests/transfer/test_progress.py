"""Progress in bytes: rows fit into the terminal and include bytes of earlier runs."""

from __future__ import annotations

import io
import re
import sys
from typing import Any

import pytest
from rich.console import Console

from panoptic_cli import console
from panoptic_cli.transfer import progress

FILES = {"panoptic_annotations_trainval2017.zip": 860_725_834, "train2017.zip": 19_336_861_798, "unknown.zip": None}


def _show(monkeypatch: pytest.MonkeyPatch, width: int) -> list[str]:
    out = io.StringIO()

    def terminal(**arguments: Any) -> Console:
        return Console(file=out, force_terminal=True, width=width, color_system=None, highlight=False)

    monkeypatch.setattr(progress, "Console", terminal)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    with progress.byte_progress("Downloading", 20_197_587_632, FILES, start=10**9) as show:
        show(10**9, {"train2017.zip": 10**9})
        show(3 * 10**9, {"train2017.zip": 2 * 10**9, "unknown.zip": 10**9}, "2/3 files")
    last = out.getvalue().rpartition("\x1b[1A")[2]  # the last frame: everything after the cursor moved up
    lines = re.sub(r"\x1b\[[?\d;]*[A-Za-z]|\r", "", last).splitlines()
    return [line.rstrip() for line in lines if line.strip()]


@pytest.mark.parametrize("width", [80, 200])
def test_every_file_has_one_row_that_fits(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    rows = _show(monkeypatch, width)
    assert len(rows) == 4
    for row, (name, done) in zip(
        rows,
        (("panoptic_annotations", "0.0/860.7 MB"), ("train2017.zip", "2.0/19.3 GB"), ("unknown.zip", "1.0/? GB")),
        strict=False,
    ):
        assert row.startswith(name)
        assert done in row
        assert len(row) <= width
    assert rows[3].startswith("Downloading")
    assert "3.0/20.2 GB" in rows[3]
    assert "2/3 files" in rows[3]


def test_plain_lines_without_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(console, "_PLAIN_INTERVAL", 0.0)
    with progress.byte_progress("Downloading", 10**8, {"a.zip": 6 * 10**7, "b.zip": None}, start=10**7) as show:
        show(5 * 10**7, {"a.zip": 3 * 10**7, "b.zip": 2 * 10**7})
        show(4 * 10**7, {"a.zip": 3 * 10**7, "b.zip": 10**7})  # the total never decreases
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("Downloading: 50/100 MB")
    assert lines[0].endswith("a.zip 50%, b.zip 20 MB")
    assert lines[1].startswith("Downloading: 50/100 MB")


def test_quiet_is_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    console.configure(verbosity=-1)
    with progress.byte_progress("Downloading", 10, {"a": 10}) as show:
        show(5, {"a": 5})
    assert capsys.readouterr().err == ""
