"""The pages of the documentation, and the commands, names and links in them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import typer
from panoptic_cli.commands.doctor import environment_variables
from panoptic_cli.commands.main import app

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = "docs/cli.md"  # generated
# The pages that people write, by their path from the root of the project.
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    if path != ROOT / REFERENCE
}
GROUP: Any = typer.main.get_command(app)
VARIABLES = frozenset(environment_variables(GROUP))

# Programs that are not ours. Any other program in a bash block, except panoptic and make, fails the test.
NOT_RUN = {
    "source .venv/bin/activate": "changes the current shell; the tests already run in such an environment",
    "gcloud auth application-default login": "Google's program; opens a browser to sign in",
    "brew install aria2": "macOS",
    **{
        f"pip install 'panoptic-cli[{extra}]'": "installs what the tests run with; see test_the_install_blocks"
        for extra in ("cpu", "gpu", "tpu")
    },
    "pip install tensorboard": "installs a package that the project does not depend on",
    "tensorboard --logdir runs/panoptic_fpn_coco/logs": "a server of that package",
}


def blocks(text: str) -> list[tuple[str, str]]:
    """Returns (language, content) of the fenced blocks."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def inline_code(text: str) -> list[str]:
    """Returns the words between single backticks, outside the fenced blocks."""
    return re.findall(r"`([^`\n]+)`", _without_blocks(text))


def links(text: str) -> list[str]:
    """Returns the targets of links and pictures, except addresses on the web."""
    targets = re.findall(r"\]\(([^)\s]+)\)", _without_blocks(text))
    return [target for target in targets if not target.startswith(("https://", "http://"))]


def anchors(text: str) -> set[str]:
    """Returns what links can have after #: the headings, as code hosts and mkdocs spell them."""
    titles = re.findall(r"^#+ (.*)", _without_blocks(text), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}


def _without_blocks(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def commands(text: str) -> list[str]:
    """Returns the commands of the bash blocks, with quotes, without comments, continued lines joined."""
    found: list[str] = []
    for content in (content for language, content in blocks(text) if language == "bash"):
        pending = ""
        for line in content.splitlines():
            pending += line
            if pending.endswith("\\"):
                pending = pending[:-1]
                continue
            try:
                words = shlex.split(pending, comments=True)
            except ValueError:  # an open quote: the next line belongs to it
                pending += "\n"
                continue
            if words:
                found.append(re.sub(r"\s+# .*$", "", pending).strip())
            pending = ""
        if pending.strip():
            raise ValueError(f"a command does not end: {pending}")
    return found


def split(command: str) -> tuple[dict[str, str], list[str]]:
    """Splits a command into the variables set before it and its words."""
    words = shlex.split(command, comments=True)
    variables = {}
    while re.match(r"[A-Z_]+=", words[0]):
        name, _, variables[name] = words.pop(0).partition("=")
    return variables, words


def problem(command: str) -> str | None:
    """Returns what is wrong with the words of a command; does not run it."""
    variables, words = split(command)
    known = {*VARIABLES, "TF_CONFIG"}
    unknown = [name for name in variables if name not in known]
    if unknown:
        return f"nothing reads {unknown[0]}"
    if any(word in ("&&", "||", "|", ";", ">", "<") for word in words):
        return "write one command on a line"
    if words[0] == "panoptic":
        return parse_problem(words[1:])
    if words[0] == "make":
        makefile = (ROOT / "Makefile").read_text()
        targets = re.findall(r"^([a-z][a-z0-9-]*):", makefile, re.MULTILINE)
        settable = re.findall(r"^(\w+) \?=", makefile, re.MULTILINE)
        missing = [word for word in words[1:] if word not in targets and word.partition("=")[0] not in settable]
        return f"the Makefile has no target or variable {missing[0]}" if missing else None
    return None if command in NOT_RUN else "this program is neither run nor listed in NOT_RUN with a reason"


def parse_problem(words: list[str]) -> str | None:
    """Returns what `panoptic` would say about the names and values of the options after it, wherever files lie."""
    if words and words[0].startswith("-"):
        options = {option for parameter in GROUP.params for option in parameter.opts}
        return next((f"no option {word}" for word in words if word not in {*options, "--help", "-h"}), None)
    command = GROUP.commands.get(words[0]) if words else None
    if command is None:
        return f"there is no command {words[:1]}"
    try:
        command.make_context(words[0], words[1:])
    except typer.TyperException as error:
        message = str(error.format_message())
        return None if message.endswith("does not exist.") else message
    return None


# Every command of every page, once.
COMMANDS = list(dict.fromkeys(command for text in PAGES.values() for command in commands(text)))
PANOPTIC = [command for command in COMMANDS if split(command)[1][0] == "panoptic"]
