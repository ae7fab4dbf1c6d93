"""The reference in docs/ and the help pages: up to date, complete, and independent of the environment."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
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
SCREEN = 50  # lines of a help page, at most, at 80 columns
PAGED = [name for name, command in COMMANDS.items() if getattr(command, "rare", None)]


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("PANOPTIC_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(rich_utils, "MAX_WIDTH", None)  # Typer reads both from the environment on import
    monkeypatch.setattr(rich_utils, "FORCE_TERMINAL", False)


@pytest.fixture
def help_page(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Returns a function that returns the help page of a command."""

    def page(name: str, width: int, option: str = "--help") -> str:
        monkeypatch.setenv("COLUMNS", str(width))
        assert run([*name.split(), option]) == 0
        return capsys.readouterr().out

    return page


def _full(name: str) -> str:
    """Returns the option that describes everything."""
    return "--help-all" if name in PAGED else "--help"


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
@pytest.mark.parametrize("width", [80, 100, 160])
def test_a_help_page_fits_and_names_every_option(name: str, width: int, help_page: Callable[..., str]) -> None:
    page = help_page(name, width)
    lines = page.splitlines()
    assert max(map(len, lines)) <= width
    assert len(lines) <= SCREEN
    assert "…" not in page  # nothing is cut
    assert "\x1b" not in page
    words = _words(page).split()
    for parameter in COMMANDS[name].params:
        for option in (*parameter.opts, *parameter.secondary_opts):
            assert option in words or f"{option}," in words or not option.startswith("-"), option


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("width", [80, 100, 160])
def test_the_full_help_describes_every_option(name: str, width: int, help_page: Callable[..., str]) -> None:
    page = help_page(name, width, _full(name))
    assert max(map(len, page.splitlines())) <= width
    assert "…" not in page
    words = _words(page)
    for parameter in COMMANDS[name].params:
        assert " ".join(parameter.help.split()) in words, parameter.name
        for text in (parameter.show_default, parameter.envvar):
            assert not isinstance(text, str) or text in words, (parameter.name, text)


def test_rare_options_stand_in_the_last_panel(help_page: Callable[..., str]) -> None:
    assert set(PAGED) == {"inspect", "make-panoptic", "make-tfrecords", "train", "evaluate", "predict"}
    for name in PAGED:
        page, command = help_page(name, 80), COMMANDS[name]
        described, last = page.split("╭─ More options: ")
        last = last.split("╰")[0]
        assert last.startswith(f"see panoptic {name} --help-all ")
        known = {option for parameter in command.params for option in parameter.opts}
        assert command.rare <= known, name  # no misspelt one
        assert set(re.findall(r"--[\w-]+", last.split("\n", 1)[1])) == set(command.rare)
        starts = {word for line in described.splitlines() for word in re.findall(r"^│ (?:-\w, )?(--[\w-]+)", line)}
        assert starts == {option for option in known - command.rare if option.startswith("--")} | {"--help"}


def test_common_options_show_their_first_sentence(help_page: Callable[..., str]) -> None:
    brief, full = _words(help_page("train", 80)), _words(help_page("train", 80, "--help-all"))
    assert "--batch-size N Global batch size. --accumulate N" in brief
    assert "Global batch size. Learning rates" in full
    assert "PANOPTIC_MODEL_DIR" in full
    assert "PANOPTIC_MODEL_DIR" not in brief


def test_a_command_without_rare_options_has_one_page(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["upload", "--help"]) == 0
    page = capsys.readouterr().out
    assert "PANOPTIC_DATA_DIR" in page
    assert "--help-all" not in page


@pytest.mark.parametrize("name", ["train", "evaluate"])
def test_a_shell_completes_rare_options(name: str) -> None:
    elsewhere = {
        **os.environ,
        "_PANOPTIC_COMPLETE": "complete_bash",
        "COMP_WORDS": f"panoptic {name} --",
        "COMP_CWORD": "2",
    }
    program = Path(sys.executable).with_name("panoptic")
    done = subprocess.run([program], env=elsewhere, capture_output=True, text=True, check=True, timeout=60)
    known = {option for parameter in COMMANDS[name].params for option in parameter.opts if option.startswith("--")}
    assert set(done.stdout.split()) == known | {"--help"}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_help_page_ends_with_examples_on_separate_lines(name: str, help_page: Callable[..., str]) -> None:
    lines = [line.rstrip() for line in help_page(name, 80).rstrip().splitlines()]
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


@pytest.mark.parametrize("line", ["--help", "train --help", "train --help-all"])
def test_help_imports_nothing_slow(line: str, tmp_path: Path) -> None:
    slow = {"numpy", "tensorflow", "yaml", "PIL", *(["pydantic"] if line == "--help" else [])}  # Typer's, for options
    code = (
        f"import sys; from panoptic_cli.commands.main import run; assert run({line.split()}) == 0; "
        f"sys.exit(' '.join({slow} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert done.stderr.strip() == ""
    assert "panoptic" in done.stdout
