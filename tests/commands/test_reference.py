"""The reference in docs/ and the help pages: up to date, complete, and independent of the environment."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
import typer
from panoptic_cli.commands.main import app, run
from rich.markup import render
from typer import rich_utils

DOCS = Path(__file__).parents[2] / "docs"
GROUP: Any = typer.main.get_command(app)
COMMANDS: dict[str, Any] = {"": GROUP, **GROUP.commands}
# Most lines of a help page at 80 columns: a screen of 50, except for commands with many options.
SCREEN = 50
LONGER = {"inspect": 62, "make-panoptic": 56, "predict": 81, "make-tfrecords": 79, "train": 85, "evaluate": 91}


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("PANOPTIC_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(rich_utils, "MAX_WIDTH", None)  # Typer reads both from the environment on import
    monkeypatch.setattr(rich_utils, "FORCE_TERMINAL", False)


def _help(name: str, width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    monkeypatch.setenv("COLUMNS", str(width))
    assert run([*name.split(), "--help"]) == 0
    return capsys.readouterr().out


def _words(page: str) -> str:
    """Returns the page without frames and line breaks, to search it for wrapped texts."""
    return " ".join(re.sub("[│╭╮╰╯─]", " ", page).split())


def _options() -> Iterator[tuple[str, Any]]:
    for name, command in COMMANDS.items():
        for parameter in command.params:
            yield f"panoptic {name} {parameter.opts[0]}", parameter


def test_the_reference_is_up_to_date_in_every_environment(tmp_path: Path) -> None:
    elsewhere = {
        **os.environ,
        "HOME": str(tmp_path),
        "COLUMNS": "40",
        "FORCE_COLOR": "1",
        "LANG": "C",
        "SHELL": "/bin/zsh",
        **dict.fromkeys(_variables(), "set"),
    }
    page = tmp_path / "cli.md"
    subprocess.run([sys.executable, DOCS / "generate.py", page], env=elsewhere, cwd=tmp_path, check=True, timeout=60)
    written = (DOCS / "cli.md").read_text(encoding="utf-8")
    assert page.read_text(encoding="utf-8") == written, "docs/cli.md is out of date: run `make docs`"


def _variables() -> set[str]:
    return {p.envvar for command in COMMANDS.values() for p in command.params if p.envvar}


def test_the_reference_names_every_command_option_and_variable() -> None:
    sections = re.split(r"^## panoptic (\S+)$", (DOCS / "cli.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    texts = dict(zip(["", *sections[1::2]], sections[::2], strict=True))
    assert set(texts) == set(COMMANDS)
    for name, command in COMMANDS.items():
        for parameter in command.params:
            names = parameter.opts if parameter.param_type_name == "option" else [parameter.metavar]
            for expected in [*names, *([parameter.envvar] if parameter.envvar else [])]:
                assert f"`{expected}`" in texts[name], (name, expected)


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("width", [80, 200])
def test_a_help_page_fits_and_is_complete(
    name: str, width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = _help(name, width, monkeypatch, capsys)
    lines = page.splitlines()
    assert max(map(len, lines)) <= width
    assert len(lines) <= LONGER.get(name, SCREEN)
    assert "…" not in page  # nothing is cut
    assert "\x1b" not in page
    words = _words(page)
    for parameter in COMMANDS[name].params:
        for option in (*parameter.opts, *parameter.secondary_opts):
            if option.startswith("-"):
                assert f" {option}" in words
        if isinstance(parameter.show_default, str):
            assert parameter.show_default.split()[0] in words


@pytest.mark.parametrize("name", COMMANDS)
def test_a_help_page_ends_with_examples_on_separate_lines(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [line.rstrip() for line in _help(name, 80, monkeypatch, capsys).rstrip().splitlines()]
    examples = lines[lines.index(" Examples:") + 1 :]
    assert examples
    for line in examples:
        for one in line.split("&&"):
            words = one.split()
            assert words[0] == "panoptic"
            command = GROUP.commands[words[1]]
            known = {option for p in command.params for option in (*p.opts, *p.secondary_opts)}
            assert {word for word in words if word.startswith("--")} <= known, line
        assert not name or name in line.split()


def test_no_help_text_is_parsed_as_markup() -> None:
    """Rich omits [words in brackets], which once hid defaults."""
    for name, parameter in _options():
        assert parameter.help.endswith("."), name
        for text in (parameter.help, parameter.rich_help_panel or ""):
            assert render(text).plain == text, name
    for command in COMMANDS.values():
        for text in (command.help, command.epilog):
            assert render(text).plain == text


def test_choices_are_in_the_help() -> None:
    """An option with a metavar in place of its choices lists them in its help."""
    seen = 0
    for name, parameter in _options():
        annotation = parameter.type_descriptor.annotation
        choices = get_args(annotation) if get_origin(annotation) is Literal else ()
        seen += len(choices)
        if parameter.metavar:
            assert [choice for choice in choices if choice not in parameter.help] == [], name
    assert seen > 10


def test_help_imports_nothing_slow(tmp_path: Path) -> None:
    code = (
        "import sys; from panoptic_cli.commands.main import run; assert run(['--help']) == 0; "
        "sys.exit(' '.join({'numpy', 'pydantic', 'tensorflow', 'yaml', 'PIL'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert done.stderr.strip() == ""
    assert "panoptic" in done.stdout
