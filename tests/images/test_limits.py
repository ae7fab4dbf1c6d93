"""Large pictures: Pillow's limit does not apply, ours does, and neither calls a file broken."""

from __future__ import annotations

import io
import os
import warnings
from pathlib import Path

import pytest
from panoptic_cli.commands.main import run
from PIL import Image

from panoptic_cli.images.limits import MAX_PIXELS_VARIABLE
from panoptic_cli.images.pillow import open_picture


def test_pillow_neither_refuses_nor_warns() -> None:
    stream = io.BytesIO()
    Image.new("1", (20_000, 9_000)).save(stream, "PNG")  # Pillow warns from 89 and refuses from 179 million pixels on
    with warnings.catch_warnings(action="error"), open_picture(stream.getvalue()) as picture:
        assert picture.size == (20_000, 9_000)


def test_a_picture_above_the_limit_is_named(
    dataset: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(MAX_PIXELS_VARIABLE, "15000000")
    assert run(["inspect", str(dataset)]) == 0
    capsys.readouterr()
    assert run(["inspect", str(dataset), "--max-pixels", "15000", "--workers", "2"]) == 1
    assert os.environ[MAX_PIXELS_VARIABLE] == "15000"  # for the workers
    printed = capsys.readouterr().out
    for kind in ("picture too large", "mask too large"):
        assert f"error: {kind} (" in printed
    assert "more than the limit of 15,000; cut it into tiles or raise --max-pixels" in printed
    assert "unreadable" not in printed
    assert run(["make-tfrecords", "--data-dir", str(dataset), "--workers", "1"]) == 1
    assert "more than the limit of 15,000" in capsys.readouterr().err
