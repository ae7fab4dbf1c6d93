"""Output: streams, and progress with an honest rate and time left."""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from rich.console import Console

from panoptic_cli import console
from panoptic_cli.errors import DataError


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 100.0

    def wait(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(console, "time", SimpleNamespace(monotonic=lambda: clock.now))
    monkeypatch.setattr(console, "_PLAIN_INTERVAL", 0.0)
    return clock


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Callable[[], str]:
    """Makes stderr a terminal; returns a function that reads the last line drawn on it."""
    drawn = io.StringIO()

    def terminal(**_: object) -> Console:
        return Console(file=drawn, force_terminal=True, width=120, color_system=None, highlight=False)

    monkeypatch.setattr(console, "Console", terminal)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")

    def last() -> str:
        lines = re.sub(r"\x1b\[[?\d;]*[A-Za-z]", "", drawn.getvalue()).replace("\r", "\n").splitlines()
        return " ".join([line for line in lines if line.strip()][-1].split())

    return last


def test_the_rate_counts_from_the_first_advance(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with console.progress("Training", 21, "steps") as advance:
        clock.wait(60)  # tracing
        advance()
        clock.wait(2)
        advance()
        clock.wait(2)
        advance(9)
        clock.wait(1)
        advance(10)
        clock.wait(30)  # saving a checkpoint
    assert capsys.readouterr().err.splitlines() == [
        "Training: 1/21 steps",
        "Training: 2/21 steps, 0.5/s, 0:38 left",
        "Training: 11/21 steps, 2.5/s, 0:04 left",
        "Training: 21/21 steps (1:35)",
    ]


def test_resumed_units_do_not_count_in_the_rate(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with console.progress("Training", 1000, "steps", start=900) as advance:
        clock.wait(60)
        advance(note="loss 3")
        clock.wait(1)
        advance(0)  # no advance: the rate is still unknown
        clock.wait(1)
        advance()
    assert capsys.readouterr().err.splitlines() == [
        "Training: 901/1,000 steps, loss 3",
        "Training: 901/1,000 steps, loss 3",
        "Training: 902/1,000 steps, 0.5/s, 3:16 left, loss 3",
        "Training: 902/1,000 steps, loss 3 (1:02)",
    ]


def test_an_unknown_total_has_no_estimate(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with console.progress("Checking", None, "records") as advance:
        advance()
        clock.wait(1)
        advance(5)
    assert capsys.readouterr().err.splitlines()[1] == "Checking: 6 records, 5.0/s"


def test_lines_are_printed_at_intervals(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console, "_PLAIN_INTERVAL", 10.0)
    with console.progress("Checking", 100) as advance:
        for _ in range(25):
            clock.wait(1)
            advance()
    assert [line.split()[1] for line in capsys.readouterr().err.splitlines()] == ["10/100", "20/100", "25/100"]


def test_a_bar_has_no_estimate_before_the_second_advance(clock: Clock, screen: Callable[[], str]) -> None:
    with console.progress("Training", 21, "steps") as advance:
        clock.wait(60)
        advance(note="loss [3]")
    first = screen()
    with console.progress("Training", 21, "steps") as advance:
        clock.wait(60)
        advance(note="loss [3]")
        clock.wait(2)
        advance()
    second = screen()
    assert re.search(r"1/21 [\d:]{7} loss \[3\]$", first)
    assert re.search(r"2/21 0\.5 steps/s [\d:]{7} 0:38 left loss \[3\]$", second)


def test_quiet_shows_no_progress(capsys: pytest.CaptureFixture[str]) -> None:
    console.configure(verbosity=-1)
    with console.progress("Training", 2) as advance:
        advance(2)
    console.info("a note")
    console.warn("a [warning]")
    assert capsys.readouterr().err == "warning: a [warning]\n"


def test_with_json_an_error_is_an_object_too(capsys: pytest.CaptureFixture[str]) -> None:
    console.configure(json_output=True)
    console.error(DataError("a.json is cut short.", "Fetch it again."))
    captured = capsys.readouterr()
    assert captured.err == "error: a.json is cut short. Fetch it again.\n"
    report = {"type": "DataError", "message": "a.json is cut short.", "hint": "Fetch it again."}
    assert json.loads(captured.out) == {"error": report}


WIDE = console.WideTable(
    "Categories",
    {"category": ["traffic light", "sky"], "kind": ["thing", "stuff"], "PQ": ["61.20", "n/a"], "box AP": ["5.00", ""]},
    left=2,
    spare=[("kind", "absent"), ("box AP",)],
)


def printed(width: int) -> list[str]:
    drawn = io.StringIO()
    WIDE.print(Console(file=drawn, force_terminal=True, width=width, color_system=None))
    return [line.rstrip() for line in drawn.getvalue().splitlines()]


def test_a_narrow_terminal_gets_fewer_columns_and_no_folded_figure() -> None:
    assert printed(40)[1:] == [
        "category       kind      PQ  box AP",
        "traffic light  thing  61.20    5.00",
        "sky            stuff    n/a",
    ]
    assert printed(34)[1:] == [
        "                              box",
        "category       kind      PQ    AP",
        "traffic light  thing  61.20  5.00",
        "sky            stuff    n/a",
    ]
    assert printed(28)[1:] == [
        "category          PQ  box AP",
        "traffic light  61.20    5.00",
        "sky              n/a",
        "Without kind: the terminal",
        "is too narrow.",
    ]
    assert printed(20)[1] == "category          PQ"


def test_what_is_no_terminal_gets_all_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    drawn = io.StringIO()
    WIDE.print(Console(file=drawn, width=20))
    assert drawn.getvalue().splitlines()[1].split() == ["category", "kind", "PQ", "box", "AP"]
