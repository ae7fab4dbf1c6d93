"""The help pages of the commands: `--help` fits a screen, `--help-all` describes every option.

Both are made from the same texts. If a command has rare options, `--help` gives only their names, in a last panel, and
of the common ones only the first sentence. Rare options keep their panels in `--help-all` and in docs/cli.md.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text


def _show_all(context: typer.Context, value: bool) -> bool:
    if value and not context.resilient_parsing:  # the second is true while a shell completes words
        command: Any = context.command
        command.print_page(context, command.get_params(context))
        raise typer.Exit
    return value


HelpAll = Annotated[
    bool,
    typer.Option("--help-all", help="Describe all options in full.", callback=_show_all, is_eager=True),
]


class PagedCommand(TyperCommand):
    """A command with our help pages.

    Attributes:
        rare: the options that `--help` only names. If there are any, the command has the option `HelpAll`.
    """

    rare: frozenset[str] = frozenset()

    def get_params(self, ctx: Any) -> list[Any]:
        """Returns all parameters; --help-all comes after --help."""
        return sorted(super().get_params(ctx), key=lambda parameter: parameter.name == "help_all")

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Prints the page of --help."""
        parameters = self.get_params(ctx)
        rare = [parameter for parameter in parameters if not self.rare.isdisjoint(parameter.opts)]
        self.print_page(ctx, [parameter for parameter in parameters if parameter not in rare], rare)

    def print_page(self, ctx: Any, described: list[Any], named: Collection[Any] = ()) -> None:
        """Prints a help page.

        Args:
            ctx: the context of the command.
            described: the parameters with a line each; with their whole help if no other is only named.
            named: the parameters in the last panel.
        """
        from rich.columns import Columns
        from rich.console import Console
        from rich.padding import Padding
        from rich.panel import Panel
        from rich.table import Table
        from rich.text import Text
        from typer import rich_utils as style

        console = Console(width=style.MAX_WIDTH, color_system=style.COLOR_SYSTEM, force_terminal=style.FORCE_TERMINAL)

        def print_panel(title: str, contents: RenderableType) -> None:
            console.print(
                Panel(contents, title=title, title_align="left", border_style=style.STYLE_OPTIONS_PANEL_BORDER)
            )

        console.print(Padding(Text(self.get_usage(ctx), style.STYLE_USAGE_COMMAND), 1))
        first, *others = (self.help or "").split("\n\n")
        console.print(Padding(Text(first), (0, 1, 1, 1)))
        for paragraph in others:
            console.print(Padding(Text(paragraph, style.STYLE_HELPTEXT), (0, 1, 1, 1)))
        cells = {parameter.name: _name_cell(parameter, ctx) for parameter in described}
        width = max(cell.cell_len for cell in cells.values())
        rest = max(1, console.width - width - 6)  # frame, margins and the gap between the columns
        for title, found in panels((p, panel_of(p)) for p in described if not p.hidden):
            table = Table.grid(padding=(0, 2, 0, 0))
            table.add_column(width=width, overflow="fold")
            table.add_column(overflow="fold")
            for parameter in found:
                table.add_row(cells[parameter.name], _help_cell(parameter, bool(named), console, rest))
            print_panel(title, table)
        if named:
            names = [Text(name_of(parameter), style.STYLE_OPTION) for parameter in named]
            print_panel(f"More options: see {ctx.command_path} --help-all", Columns(names, padding=(0, 3, 0, 0)))
        console.print(Padding(Text((self.epilog or "").strip("\n")), (1, 1, 0, 1)))


def paged(rare: Collection[str]) -> type[PagedCommand]:
    """Returns the class of a command whose `--help` only names the options `rare`."""
    return type("PagedCommand", (PagedCommand,), {"rare": frozenset(rare)})


def panel_of(parameter: Any) -> str:
    """Returns the title of the panel that describes a parameter."""
    return parameter.rich_help_panel or {"argument": "Arguments", "option": "Options"}[parameter.param_type_name]


def panels(items: Iterable[tuple[Any, str]]) -> list[tuple[str, list[Any]]]:
    """Groups (item, panel) pairs: arguments, options without a panel, then the other panels in their order."""
    found: dict[str, list[Any]] = {"Arguments": [], "Options": []}
    for item, panel in items:
        found.setdefault(panel, []).append(item)
    return [(panel, members) for panel, members in found.items() if members]


def name_of(parameter: Any) -> str:
    """Returns the name in help and messages: --config, or the metavar of an argument."""
    return parameter.metavar if parameter.param_type_name == "argument" else max(parameter.opts, key=len)


def names_of(parameter: Any) -> list[str]:
    """Returns all names, short ones first; Typer keeps those of --help in a set."""
    if parameter.param_type_name == "argument":
        return [name_of(parameter)]
    return [*sorted(parameter.opts, key=lambda name: name.startswith("--")), *parameter.secondary_opts]


def value_of(parameter: Any, context: Any) -> str:
    """Returns what an option takes, e.g. FILE or fail|skip; "" for a flag and an argument."""
    if parameter.param_type_name == "argument" or parameter.is_flag:
        return ""
    return str(parameter.metavar or parameter.display_type_rich(context).strip("<>"))


def limits_of(parameter: Any) -> Iterator[str]:
    """Yields the ends of the range of an option."""
    for words, end in {"at least": parameter.min, "at most": parameter.max}.items():
        if end is not None:
            yield f"{words} {end:g}"


def default_of(parameter: Any) -> tuple[str, bool]:
    """Returns the default, "" if there is none, and whether it is described in words instead of a literal value."""
    if isinstance(parameter.show_default, str):
        return parameter.show_default, True
    if parameter.default is None or not parameter.show_default or parameter.param_type_name == "argument":
        return "", False
    if parameter.is_flag:
        names = parameter.opts if parameter.default else parameter.secondary_opts
        return (names[0] if parameter.secondary_opts else ""), False
    return str(parameter.default), False


def _name_cell(parameter: Any, ctx: Any) -> Text:
    from rich.text import Text
    from typer import rich_utils as style

    names = Text(", ").join(Text(name, style.STYLE_OPTION) for name in names_of(parameter))
    value = value_of(parameter, ctx)
    return names.append(f" {value}", style.STYLE_TYPES) if value else names


def _help_cell(parameter: Any, brief: bool, console: Console, width: int) -> Text:
    """Returns the help, the default, and unless `brief` the range and the environment variable."""
    from rich.text import Text
    from typer import rich_utils as style

    sentence, more, _ = parameter.help.partition(". ")
    text = Text(f"{sentence}." if brief and more else parameter.help)
    text.highlight_regex(re.compile(r"(?<!\S)--[\w-]+"), style.STYLE_OPTION)
    default, _ = default_of(parameter)
    notes = [(f"[default: {default}]", style.STYLE_OPTION_DEFAULT)] if default else []
    if not brief:
        notes += [(f"[{limit}]", style.STYLE_OPTION_DEFAULT) for limit in limits_of(parameter)]
        if parameter.envvar:
            notes.append((f"[env var: {parameter.envvar}]", style.STYLE_OPTION_ENVVAR))
    for note, colour in notes:
        fits = text.wrap(console, width)[-1].cell_len + len(note) < width
        text.append(" " if fits else "\n").append(note, colour)  # no line break inside a note
    return text
