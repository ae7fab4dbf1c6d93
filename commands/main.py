"""The Typer app and the handling of errors."""

from __future__ import annotations

import functools
import inspect
import itertools
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Collection
from typing import Annotated, Any

import typer

from panoptic_cli import __version__, console
from panoptic_cli.errors import INTERRUPTED, PanopticError, one_line, plain_check
from panoptic_cli.interrupts import no_lost_interrupt, terminate_as_interrupt
from panoptic_cli.startup import own_process

from . import demo, doctor, download, evaluate, export, make_panoptic, make_tfrecords, models, predict, train, upload
from . import inspect as inspect_command
from .help_pages import paged

# Typer keeps these line breaks; the leading newline keeps the indentation too.
_EXAMPLES = """
Examples:
  panoptic demo
  panoptic download && panoptic make-tfrecords && panoptic train
  panoptic evaluate && panoptic export && panoptic predict photos/
"""

app = typer.Typer(
    name="panoptic",
    help="Train, evaluate and export panoptic segmentation networks, from COCO files to a SavedModel.",
    epilog=_EXAMPLES,
    no_args_is_help=True,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)

_DATA = "Prepare data"
_MODEL = "Train and use"
_HELP = "Demo and diagnostics"
_GLOBAL = ("-v", "--verbose", "-q", "--quiet", "--version")


def _version(value: bool) -> None:
    if value:
        console.result({"version": __version__}, f"panoptic {__version__}")
        raise typer.Exit


@app.callback()
def _global_options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Print details.")] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Print only results, warnings and errors.")] = False,
) -> None:
    console.configure(verbosity=1 if verbose else -1 if quiet else 0)


class _InterruptedError(Exception):
    """Ctrl-C. On a KeyboardInterrupt Typer would exit without a message."""


def _add(name: str, panel: str, command: Callable[..., Any], rare: Collection[str] = ()) -> None:
    """Adds a command. Its docstring is its help: paragraphs, which Typer wraps, and examples, which it keeps.

    `rare` are the options that `--help` only names.
    """
    text, _, examples = (inspect.getdoc(command) or "").partition("\n\nExamples:\n")
    paragraphs = [" ".join(paragraph.split()) for paragraph in text.split("\n\n")]
    lines = "".join(f"  {line.strip()}\n" for line in examples.splitlines())

    @functools.wraps(command)
    def interruptible(*arguments: Any, **options: Any) -> Any:
        try:
            return command(*arguments, **options)
        except KeyboardInterrupt:
            raise _InterruptedError from None

    epilog = f"\nExamples:\n{lines}"
    add = app.command(name, cls=paged(rare), rich_help_panel=panel, help="\n\n".join(paragraphs), epilog=epilog)
    add(interruptible)


_add("download", _DATA, download.download)
_add("inspect", _DATA, inspect_command.inspect, inspect_command.RARE)
_add("make-panoptic", _DATA, make_panoptic.make_panoptic, make_panoptic.RARE)
_add("make-tfrecords", _DATA, make_tfrecords.make_tfrecords, make_tfrecords.RARE)
_add("upload", _DATA, upload.upload)
_add("train", _MODEL, train.train, train.RARE)
_add("evaluate", _MODEL, evaluate.evaluate, evaluate.RARE)
_add("export", _MODEL, export.export)
_add("predict", _MODEL, predict.predict, predict.RARE)
_add("models", _MODEL, models.models)
_add("demo", _HELP, demo.demo)
_add("doctor", _HELP, doctor.doctor)


def run(arguments: list[str]) -> int:
    """Runs a command line, prints any error on one line and returns the exit code.

    Args:
        arguments: the words after `panoptic`.

    Returns:
        0 done, 1 failed, 2 wrong usage, 130 interrupted; other codes from the command itself.
    """
    console.configure(verbosity=0, json_output="--json" in arguments)
    try:
        code = app(args=arguments, prog_name="panoptic", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except typer.TyperException as error:
        return _usage_error(error, arguments)
    except PanopticError as error:
        console.error(error)
        if os.environ.get("PANOPTIC_DEBUG"):
            traceback.print_exc()
        return error.exit_code
    except (KeyboardInterrupt, _InterruptedError, typer.Abort):
        console.warn("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    except OSError as error:
        if os.environ.get("PANOPTIC_DEBUG"):
            traceback.print_exc()
        where = f" {error.filename}" if error.filename else ""
        console.error(
            error,
            f"Cannot access{where or ' a file'}: {error.strerror or one_line(error)}. "
            "Check the path, the permissions and the disk space.",
        )
        return 1
    except Exception as error:
        if os.environ.get("PANOPTIC_DEBUG"):
            traceback.print_exc()
        console.error(
            error,
            f"{type(error).__name__} in {_origin(error)}: {one_line(error, 600)}. This is a bug in panoptic. "
            "Run again with PANOPTIC_DEBUG=1 and report the traceback with the output of panoptic doctor.",
        )
        return 1


def _usage_error(error: typer.TyperException, arguments: list[str]) -> int:
    message = error.format_message() if hasattr(error, "format_message") else str(error)
    if not message:  # no_args_is_help has printed the help page
        return int(getattr(error, "exit_code", 2))
    context = getattr(error, "ctx", None)
    commands = {command.name for command in app.registered_commands}
    named = [word for word in arguments if word in commands][:1]  # errors of the parser have no context
    path = context.command_path if context is not None else " ".join(["panoptic", *named])
    option, command = getattr(error, "option_name", None), path.partition(" ")[2]
    if option in _GLOBAL and command:
        message = f"{option} must come before the command: panoptic {option} {command}"
    message = _plain(message, arguments)
    console.error(error, f"{message.rstrip('.')}{'' if message.endswith('?') else '.'} See '{path} --help'.")
    return int(getattr(error, "exit_code", 2))


def _plain(message: str, arguments: list[str]) -> str:
    """Returns a message of Typer in plain words, with the value that it is about."""
    message = plain_check(message).replace(": file '", ": the file '")
    message = re.sub(r": the file '(.*)' is a directory", r": '\1' is a folder, not a file", message)
    message = re.sub(r": (?:dir|directory) '(.*)'", r": the folder '\1'", message)
    message = re.sub(r"Got unexpected extra arguments?(?:\(s\))? \((.*)\)", r"Unexpected argument: \1", message)
    option = re.match("Invalid value for '(-[^' ]+)", message)
    if option is not None and ": must " in message:
        value = _value_after(option[1], arguments)
        message = f"{message}, not '{value}'" if value is not None else message
    return message


def _value_after(option: str, arguments: list[str]) -> str | None:
    """Returns the last value of an option on a command line: --name VALUE or --name=VALUE."""
    values = [
        word.removeprefix(f"{option}=") if word != option else following
        for word, following in itertools.pairwise([*arguments, ""])
        if word == option or word.startswith(f"{option}=")
    ]
    return values[-1] if values else None


def _origin(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "panoptic_cli" in frame.filename or "commands" in frame.filename]
    frame = (ours or frames)[-1]
    return f"{os.path.basename(frame.filename)}:{frame.lineno}"


def main() -> None:
    """Runs the command line of this process and ends it."""
    own_process()
    try:
        with terminate_as_interrupt(), no_lost_interrupt():
            code = run(sys.argv[1:])
    except KeyboardInterrupt:  # a second Ctrl-C, while the first one is handled
        code = INTERRUPTED
    if code == INTERRUPTED:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # one more ends the process at once, not with a traceback
    sys.exit(code)
