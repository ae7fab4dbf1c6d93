"""One process at a time writes a path, completely or not at all; what killed processes left is removed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from panoptic_cli import locks
from panoptic_cli.errors import RunError
from panoptic_cli.locks import folder_lock, locked_path

_HINT = "give another --output"
_WRITER = """
import sys, time
from pathlib import Path
from panoptic_cli.locks import locked_path
with locked_path(Path(sys.argv[1]), "test", "wait") as new:
    new.mkdir()
    (new / "file").write_text("half")
    print("begun", flush=True)
    time.sleep(60)
"""


def _folder(path: Path, content: str) -> None:
    path.mkdir(parents=True)
    (path / "file").write_text(content)


def _write(path: Path, content: str) -> None:
    with locked_path(path, "test", _HINT) as new:
        _folder(new, content)


def test_a_folder_is_replaced(tmp_path: Path) -> None:
    target = tmp_path / "parent" / "set"
    for content in ("old", "new"):
        _write(target, content)
        assert (target / "file").read_text() == content
        assert list(target.parent.iterdir()) == [target]


def test_a_file_is_replaced(tmp_path: Path) -> None:
    target = tmp_path / "model.tflite"
    for content in ("old", "new"):
        with locked_path(target, "test", _HINT) as new:
            new.write_text(content)
        assert target.read_text() == content
        assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("renamed", [0, 1])
def test_an_interrupted_replacement_is_undone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renamed: int) -> None:
    target = tmp_path / "set"
    _folder(target, "old")
    rename, count = Path.rename, [0]

    def interrupted(self: Path, to: Path) -> Path:
        count[0] += 1
        if count[0] == renamed + 1:
            raise KeyboardInterrupt
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        _write(target, "new")
    assert (target / "file").read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_second_interrupt_does_not_stop_the_removal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    removed = locks.remove

    def remove(path: Path) -> None:
        signal.raise_signal(signal.SIGINT)
        removed(path)

    def write() -> None:
        with locked_path(tmp_path / "set", "test", _HINT) as new:
            _folder(new, "half")
            monkeypatch.setattr(locks, "remove", remove)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no kill -9")
def test_only_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    target = tmp_path / "set"
    with subprocess.Popen([sys.executable, "-c", _WRITER, str(target)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        with pytest.raises(RunError, match=rf"Another test is writing {target}\. Wait until it ends, or {_HINT}\."):
            _write(target, "new")
        left = tmp_path / ".set.partial" / "new" / "file"
        assert left.read_text() == "half"
        process.kill()
    assert left.exists()
    _write(target, "new")
    assert (target / "file").read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


def test_a_kill_between_the_two_renames_loses_nothing(tmp_path: Path) -> None:
    target = tmp_path / "set"
    _folder(tmp_path / ".set.partial" / "earlier", "old")
    _folder(tmp_path / ".set.partial" / "new", "new")

    def write() -> None:
        with locked_path(target, "test", _HINT) as new:
            assert (target / "file").read_text() == "old"
            assert not new.exists()
            raise ValueError("half way")

    with pytest.raises(ValueError, match="half way"):
        write()
    assert (target / "file").read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_that_the_other_process_removes_is_not_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    opened = os.open

    def late(path: Path, flags: int) -> int:
        descriptor = opened(path, flags)
        folder.rmdir()
        return descriptor

    monkeypatch.setattr(os, "open", late)
    with pytest.raises(RunError, match="Another test is running in"), folder_lock(folder, "test", _HINT):
        pass
