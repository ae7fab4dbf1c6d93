"""README and the pages in docs/: commands, names, links and files in them exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from documentation import (
    COMMANDS,
    GROUP,
    NOT_RUN,
    PAGES,
    PANOPTIC,
    REFERENCE,
    ROOT,
    VARIABLES,
    anchors,
    blocks,
    commands,
    inline_code,
    links,
    parse_problem,
    problem,
    split,
)
from pydantic import BaseModel

from panoptic_cli import config

README = PAGES["README.md"]


@pytest.mark.parametrize("page", PAGES)
def test_commands_are_right(page: str) -> None:
    assert {command: found for command in commands(PAGES[page]) if (found := problem(command))} == {}
    allowed = {"bash", "text", "python", "yaml"}  # only bash blocks have commands; yaml and python have their own tests
    assert {language for language, _ in blocks(PAGES[page])} <= allowed
    outputs = "".join(content for language, content in blocks(PAGES[page]) if language == "text")
    assert not re.search(r"^\s*[$#]?\s*(\.venv/bin/)?(panoptic|make|pip|python)\s", outputs, re.MULTILINE)


def test_no_command_is_left_out() -> None:
    assert len(PANOPTIC) > 50
    assert set(NOT_RUN) <= set(COMMANDS)
    assert {split(command)[1][1] for command in PANOPTIC} >= set(GROUP.commands)


def test_examples_of_the_reference_are_right() -> None:
    lines = commands((ROOT / REFERENCE).read_text(encoding="utf-8"))
    examples = [one.strip() for line in lines for one in line.split("&&")]
    assert len(examples) > 20
    assert {example: found for example in examples if (found := problem(example))} == {}


@pytest.mark.parametrize(
    ("block", "word"),
    [
        ("panoptic train --stepz 3", "--stepz"),
        ("panoptic evaluate --schedule 1x", "--schedule"),
        ("panoptic train --precision float8", "float8"),
        ("panoptic tarin", "tarin"),
        ("panoptic --colour", "--colour"),
        ("panoptic upload", "gs://BUCKET"),
        ("PANOPTIC_MODELDIR=x panoptic train", "PANOPTIC_MODELDIR"),
        ("panoptic download && panoptic train", "one command"),
        ("make everything", "everything"),
        ("make setup DEVISE=tpu", "DEVISE"),
        ("aria2c http://localhost/", "NOT_RUN"),
        ("panoptic train \\\n  --steps 3 \\\n  --nonsense", "--nonsense"),
        ("panoptic train --stepz 3    # a comment", "--stepz"),
    ],
)
def test_mistakes_in_a_page_are_found(block: str, word: str) -> None:
    (command,) = commands(f"# Title\n\n```bash\n# a comment\n{block}\n```\n")
    assert word in (problem(command) or "")
    assert "comment" not in command


@pytest.mark.parametrize("page", PAGES)
def test_names_in_the_text_exist(page: str) -> None:
    options = {o for command in [GROUP, *GROUP.commands.values()] for p in command.params for o in [*p.opts]}
    for code in inline_code(PAGES[page]):
        if code.startswith("panoptic ") and not code.startswith("panoptic --"):
            assert parse_problem(shlex.split(code)[1:]) is None, code
        if code.startswith("make "):
            assert problem(code) is None, code
        for option in re.findall(r"(?<![\w-])--[a-z][a-z-]*", code):
            assert option in options | {"--help", "--find-links"}, code  # the last is pip's
    assert set(re.findall(r"PANOPTIC_\w+", PAGES[page])) <= VARIABLES | {"PANOPTIC_"}


def test_configuration_keys_in_the_text_exist() -> None:
    text = " ".join([*COMMANDS, *(code for page in PAGES.values() for code in inline_code(page))])
    keys = set(re.findall(r"\b(?:task|trainer|runtime)(?:\.[a-z_0-9]+)+\b", text))
    assert len(keys) > 15
    for key in keys:
        section: Any = config.Experiment
        for part in key.split("."):
            assert issubclass(section, BaseModel), key
            assert part in section.model_fields, key
            section = section.model_fields[part].annotation
            section = section if isinstance(section, type) else object


@pytest.mark.parametrize("page", [*PAGES, REFERENCE, "CONTRIBUTING.md"])
def test_links_lead_to_files_and_headings(page: str) -> None:
    """mkdocs checks those of the site, but not those of README and CONTRIBUTING."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in links(text):
        path, _, anchor = target.partition("#")
        file = (ROOT / page).parent / path if path else ROOT / page
        assert file.is_file(), target
        if page.startswith("docs/"):  # the site has the files in docs/ alone
            assert file.resolve().parent == ROOT / "docs", target
        if anchor:
            assert anchor in anchors(file.read_text(encoding="utf-8")), target


def test_wrong_links_are_found() -> None:
    text = "# A `b` title, with 2 words\n\n[x](a.md#b) ![y](c.jpg) [web](https://d.org/)\n\n```text\n[z](e.md)\n```\n"
    assert links(text) == ["a.md#b", "c.jpg"]
    assert anchors(text) == {"a-b-title-with-2-words"}


def test_every_page_is_linked_from_the_readme_and_in_the_site() -> None:
    pages = {path.name for path in (ROOT / "docs").glob("*.md")}
    linked = {Path(target.partition("#")[0]).name for target in links(README)}
    assert pages - {"index.md"} <= linked  # README is the index of the repository
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    nav = [name for entry in site["nav"] for value in entry.values() for name in _names(value)]
    assert sorted(nav) == sorted(pages)


def _names(value: str | list[dict[str, str]]) -> list[str]:
    return [value] if isinstance(value, str) else [name for entry in value for name in entry.values()]


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 180
    first_screen = "\n".join(README.splitlines()[:24])
    assert "panoptic predict photo.jpg --checkpoint eomt_large_640" in first_screen
    for page, text in PAGES.items():
        wide = [line for line in text.splitlines() if len(line) > 120 and not line.startswith("|")]
        assert wide == [], page
