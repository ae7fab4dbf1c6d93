"""Write docs/cli.md, the reference of all commands, from the help texts (`make docs`).

Typer's own `utils docs` ignores panels, mixes values and defaults into the text, and cuts the commands' summaries.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import typer
from panoptic_cli.commands.main import app

_PAGE = Path(__file__).with_name("cli.md")
_NOTE = "<!-- Written by docs/generate.py from the help texts. To change it, edit those and run `make docs`. -->"


def page() -> str:
    """Returns the reference as Markdown. It does not depend on the terminal, the environment or the home folder."""
    group: Any = typer.main.get_command(app)
    context = typer.Context(group, info_name="panoptic", **group.context_settings)
    lines = [_NOTE, "", "# Command-line reference", "", *_command(group, context)]
    for panel, names in _panels((name, command.rich_help_panel) for name, command in group.commands.items()):
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
    titles = {"argument": "Arguments", "option": "Options"}
    for panel, found in _panels((p, p.rich_help_panel or titles[p.param_type_name]) for p in parameters):
        columns = [found[0].param_type_name, "value", "default", "variable", "description"]
        rows = [[_names(p), _value(p, context), _default(p), _code(p.envvar or ""), _text(p.help)] for p in found]
        used = [i for i in range(len(columns)) if any(row[i] for row in rows)]
        yield from [f"**{panel}**", ""]
        yield from _table([columns[i] for i in used], [[row[i] for i in used] for row in rows])
        yield ""


def _panels(items: Iterable[tuple[Any, str]]) -> list[tuple[str, list[Any]]]:
    """Groups (item, panel) pairs in the order of the help pages: arguments, options without a panel, other panels."""
    panels: dict[str, list[Any]] = {"Arguments": [], "Options": []}
    for item, panel in items:
        panels.setdefault(panel, []).append(item)
    return [(panel, found) for panel, found in panels.items() if found]


def _names(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return _code(parameter.metavar)
    names = sorted(parameter.opts, key=lambda name: name.startswith("--"))  # Typer keeps the names of --help in a set
    return ", ".join(_code(name) for name in [*names, *parameter.secondary_opts])


def _value(parameter: Any, context: typer.Context) -> str:
    """Returns the value that an option takes, with its range; "" for a flag."""
    if parameter.param_type_name == "argument" or parameter.is_flag:
        return ""
    name = parameter.metavar or parameter.display_type_rich(context).strip("<>")
    ends = {"at least": parameter.min, "at most": parameter.max}
    return ", ".join([_code(name), *(f"{words} {end:g}" for words, end in ends.items() if end is not None)])


def _default(parameter: Any) -> str:
    """Returns the default as code, or in words if it depends on something."""
    if isinstance(parameter.show_default, str):
        return _text(parameter.show_default)
    if parameter.default is None or not parameter.show_default or parameter.param_type_name == "argument":
        return ""
    if parameter.param_type_name == "option" and parameter.is_flag:
        names = parameter.opts if parameter.default else parameter.secondary_opts
        return _code(names[0]) if parameter.secondary_opts else ""
    return _code(str(parameter.default))


def _code(text: str) -> str:
    return f"`{text}`".replace("|", r"\|") if text else ""


def _text(text: str | None) -> str:
    """Returns text with Markdown's markup characters escaped."""
    return "".join(f"\\{c}" if c in "\\<>*_[]|`#" else c for c in text or "")


def _table(columns: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in [columns, ["---"] * len(columns), *rows]]


if __name__ == "__main__":
    (Path(sys.argv[1]) if sys.argv[1:] else _PAGE).write_text(page(), encoding="utf-8")
