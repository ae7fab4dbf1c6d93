"""The command line as a whole: help, exit codes, streams, JSON, and no TensorFlow where none is needed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import tomllib
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from panoptic_cli.commands import main
from panoptic_cli.commands.main import app, run

from panoptic_cli import diagnostics

COMMANDS = sorted(command.name for command in app.registered_commands if command.name)

# Runs command lines in one process and reports each exit code, and whether TensorFlow is imported afterwards.
_WITHOUT_TENSORFLOW = """
import json, sys
from panoptic_cli.commands.main import run
report = []
for line in json.loads(sys.argv[1]):
    code = run(line)
    report.append((code, "tensorflow" in sys.modules))
sys.stderr.write("REPORT" + json.dumps(report))
"""


def _run_all(lines: list[list[str]], folder: Path) -> list[tuple[int, bool]]:
    process = subprocess.run(
        [sys.executable, "-c", _WITHOUT_TENSORFLOW, json.dumps(lines)],
        capture_output=True,
        text=True,
        cwd=folder,
        check=False,
    )
    assert "REPORT" in process.stderr, process.stderr
    assert "Traceback" not in process.stderr
    report: list[tuple[int, bool]] = [tuple(item) for item in json.loads(process.stderr.rpartition("REPORT")[2])]
    return report


def test_there_are_exactly_the_commands_of_the_contract() -> None:
    contract = "download inspect make-panoptic make-tfrecords upload train evaluate export predict models demo doctor"
    assert sorted(contract.split()) == COMMANDS


def test_help_and_usage_errors_do_not_import_tensorflow(tmp_path: Path) -> None:
    helps = [["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)]
    mistakes = [
        ["nonsense"],
        ["train", "--no-such-option"],
        ["train", "--steps", "many"],
        ["train", "--precision", "float8"],
        ["train", "--experiment", "panoptic_fpn_coc"],
        ["train", "--set", "trainer.stepz=3"],
        ["train", "--config", "missing.yaml"],
        ["train", "--tpu", "v3", "--gpus", "2"],
        ["evaluate", "--tpu", "v3"],
        ["evaluate", "--predictions", "p.json"],
        ["export", "--image-size", "large"],
        ["predict"],
        ["upload"],
        ["download", "--connections", "0"],
    ]
    failures = [  # missing files: exit code 1
        ["evaluate", "--model-dir", "missing"],
        ["export", "--model-dir", "missing"],
        ["predict", "picture.jpg", "--model-dir", "missing"],
        ["train", "--train-data", "missing/train-*"],
        ["make-tfrecords", "--data-dir", "missing"],
        ["inspect", "missing"],
    ]
    report = _run_all([*helps, *mistakes, *failures], tmp_path)
    expected = [0] * len(helps) + [2] * len(mistakes) + [1] * len(failures)
    lines = [*helps, *mistakes, *failures]
    assert [(line, code) for line, (code, _) in zip(lines, report, strict=True)] == list(
        zip(lines, expected, strict=True)
    )
    assert not any(imported for _, imported in report)
    assert list(tmp_path.iterdir()) == []  # nothing was written


def test_a_usage_error_is_one_line_on_stderr_with_a_hint(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", "--stepz", "3"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert "--stepz" in captured.err
    assert "panoptic train --help" in captured.err


def test_json_errors_are_one_object_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["evaluate", "--json", "--model-dir", "/nowhere/at/all"]) == 1
    captured = capsys.readouterr()
    error = json.loads(captured.out)["error"]
    assert error["type"] == "RunError"
    assert "/nowhere/at/all" in error["message"]
    assert error["hint"]


def test_the_refusal_of_tpus_gives_the_reason(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["evaluate", "--tpu", "local"]) == 2
    assert "shapes" in capsys.readouterr().err


def test_unexpected_errors_are_one_line_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("boom")

    monkeypatch.setattr(diagnostics, "diagnose", broken)
    monkeypatch.delenv("PANOPTIC_DEBUG", raising=False)
    assert run(["doctor"]) == 1
    error = capsys.readouterr().err
    assert "boom" in error
    assert "PANOPTIC_DEBUG=1" in error
    assert "Traceback" not in error
    monkeypatch.setenv("PANOPTIC_DEBUG", "1")
    assert run(["doctor"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_an_interrupt_gives_a_message_and_exit_code_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(diagnostics, "diagnose", interrupted)
    assert run(["doctor"]) == 130
    assert capsys.readouterr().err == "warning: interrupted\n"


def test_python_dash_m() -> None:
    process = subprocess.run(
        [sys.executable, "-m", "panoptic_cli", "--version"], capture_output=True, text=True, check=True
    )
    assert process.stdout.startswith("panoptic ")


@pytest.fixture
def code_of_main(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Any]]:
    """Runs `panoptic doctor` as a program, in a process that is not its own, and returns its exit code."""

    def code() -> Any:
        with pytest.raises(SystemExit) as ended:
            main.main()
        return ended.value.code

    monkeypatch.setattr(main, "own_process", lambda: None)  # it would redirect the errors of the tests that follow
    monkeypatch.setattr("sys.argv", ["panoptic", "doctor"])
    before = signal.getsignal(signal.SIGINT)
    yield code
    signal.signal(signal.SIGINT, before)


def test_a_second_interrupt_ends_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, code_of_main: Callable[[], Any]
) -> None:
    def interrupt(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(main.console, "warn", interrupt)
    monkeypatch.setattr(main, "app", interrupt)
    assert code_of_main() == 130
    assert signal.getsignal(signal.SIGINT) == signal.SIG_DFL


class _HalfImported(types.ModuleType):
    def __getattr__(self, name: str) -> Any:
        raise KeyboardInterrupt


def test_an_interrupt_during_the_imports_leaves_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import panoptic_cli.__main__ as program

    monkeypatch.setitem(sys.modules, "panoptic_cli.commands", _HalfImported("panoptic_cli.commands"))
    with pytest.raises(SystemExit) as ended:
        program.main()
    assert ended.value.code == 130
    assert capsys.readouterr().err == "warning: interrupted\n"
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    assert project["project"]["scripts"] == {"panoptic": "panoptic_cli.__main__:main"}


class _Freed:
    def __del__(self) -> None:
        signal.raise_signal(signal.SIGINT)


def test_an_interrupt_while_an_object_is_freed_is_not_lost(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], code_of_main: Callable[[], Any]
) -> None:
    def interrupted(*_: object) -> None:
        _Freed()
        time.sleep(60)

    monkeypatch.setattr(diagnostics, "diagnose", interrupted)
    begun = time.monotonic()
    assert code_of_main() == 130
    assert time.monotonic() - begun < 30  # in the sleep, not after it
    assert capsys.readouterr().err == "warning: interrupted\n"


@pytest.mark.usefixtures("harmless_sigterm")
def test_sigterm_interrupts_any_command_like_ctrl_c(
    monkeypatch: pytest.MonkeyPatch, code_of_main: Callable[[], Any]
) -> None:
    def stopped(arguments: list[str]) -> int:
        os.kill(os.getpid(), signal.SIGTERM)
        return 0

    monkeypatch.setattr(main, "run", stopped)
    assert code_of_main() == 130
