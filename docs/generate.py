"""Write docs/cli.md, the reference of all commands, from the help texts (`make docs`).

Typer's own `utils docs` ignores panels, mixes values and defaults into the text, and cuts the commands' summaries.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from panoptic_cli.commands.help_pages import default_of, limits_of, names_of, panel_of, panels, value_of
from panoptic_cli.commands.main import app

_PAGE = Path(__file__).with_name("cli.md")
_NOTE = "<!-- Written by docs/generate.py from the help texts. To change it, edit those and run `make docs`. -->"


def page() -> str:
    """Returns the reference as Markdown. It does not depend on the terminal, the environment or the home folder."""
    group: Any = typer.main.get_command(app)
    context = typer.Context(group, info_name="panoptic", **group.context_settings)
    lines = [_NOTE, "", "# Command-line reference", "", *_command(group, context)]
    for panel, names in panels((name, command.rich_help_panel) for name, command in group.commands.items()):
        rows = [[f"[`{name}`](#panoptic-{name})", _text(group.commands[name].help.split("\n\n")[0])] for name in names]
        lines += [f"**{panel}**", "", *_table(["command", "description"], rows), ""]
    for name, command in group.commands.items():
        lines += [f"## panoptic {name}", "", *_command(command, typer.Context(command, parent=context, info_name=name))]
    return "\n".join(lines).rstrip() + "\n"


def _command(command: Any, context: typer.Context) -> Iterator[str]:
    """Yields the description, synopsis, examples and a table for each panel."""
    yield from [_text(command.help), "", "```text"]
    yield " ".join([context.command_path, *command.collect_usage_pieces(context)])
    yield from ["```", "", "```bash"]
    yield from (line.strip() for line in command.epilog.strip().splitlines()[1:])  # the first line is "Examples:"
    yield from ["```", ""]
    parameters = [parameter for parameter in command.get_params(context) if not parameter.hidden]
    for panel, found in panels((parameter, panel_of(parameter)) for parameter in parameters):
        columns = [found[0].param_type_name, "value", "default", "variable", "description"]
        rows = [[_names(p), _value(p, context), _default(p), _code(p.envvar or ""), _text(p.help)] for p in found]
        used = [i for i in range(len(columns)) if any(row[i] for row in rows)]
        yield from [f"**{panel}**", ""]
        yield from _table([columns[i] for i in used], [[row[i] for i in used] for row in rows])
        yield ""


def _names(parameter: Any) -> str:
    return ", ".join(_code(name) for name in names_of(parameter))


def _value(parameter: Any, context: typer.Context) -> str:
    """Returns the value that an option takes, with its range; "" for a flag."""
    value = value_of(parameter, context)
    return ", ".join([_code(value), *limits_of(parameter)]) if value else ""


def _default(parameter: Any) -> str:
    """Returns the default as code, or in words if it depends on something."""
    default, in_words = default_of(parameter)
    return _text(default) if in_words else _code(default)


def _code(text: str) -> str:
    return f"`{text}`".replace("|", r"\|") if text else ""


def _text(text: str | None) -> str:
    """Returns text with Markdown's markup characters escaped."""
    return "".join(f"\\{c}" if c in "\\<>*_[]|`#" else c for c in text or "")


def _table(columns: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in [columns, ["---"] * len(columns), *rows]]


if __name__ == "__main__":
    (Path(sys.argv[1]) if sys.argv[1:] else _PAGE).write_text(page(), encoding="utf-8")
