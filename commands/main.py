"""The Typer app, and the one handler of errors."""

from __future__ import annotations

import os
import sys
import traceback
from typing import Annotated

import typer

from panoptic_cli import __version__, console
from panoptic_cli.errors import PanopticError
from panoptic_cli.startup import own_stderr

from . import demo, doctor, download, evaluate, export, make_tfrecords, predict, train, upload
from . import inspect as inspect_command

app = typer.Typer(
    name="panoptic",
    help="From COCO files to a trained, evaluated and exported Panoptic FPN.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)

_DATA = "1. Prepare data"
_MODEL = "2. Train and use"
_HELP = "3. Get started"


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
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Print results, warnings and errors only.")] = False,
) -> None:
    console.configure(verbosity=1 if verbose else -1 if quiet else 0)


app.command("download", rich_help_panel=_DATA)(download.download)
app.command("inspect", rich_help_panel=_DATA)(inspect_command.inspect)
app.command("make-tfrecords", rich_help_panel=_DATA)(make_tfrecords.make_tfrecords)
app.command("upload", rich_help_panel=_DATA)(upload.upload)
app.command("train", rich_help_panel=_MODEL)(train.train)
app.command("evaluate", rich_help_panel=_MODEL)(evaluate.evaluate)
app.command("export", rich_help_panel=_MODEL)(export.export)
app.command("predict", rich_help_panel=_MODEL)(predict.predict)
app.command("demo", rich_help_panel=_HELP)(demo.demo)
app.command("doctor", rich_help_panel=_HELP)(doctor.doctor)


def run(arguments: list[str]) -> int:
    """Runs one command line and returns its exit code; prints any error on one line.

    Args:
        arguments: the words after `panoptic`.

    Returns:
        0 done, 1 failed, 2 wrong usage, 130 interrupted.
    """
    console.configure(verbosity=0, json_output="--json" in arguments)
    try:
        code = app(args=arguments, prog_name="panoptic", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except typer.TyperException as error:
        return _usage_error(error)
    except PanopticError as error:
        console.error(error)
        if os.environ.get("PANOPTIC_DEBUG"):
            traceback.print_exc()
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        console.warn("interrupted")
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    except OSError as error:
        if os.environ.get("PANOPTIC_DEBUG"):
            traceback.print_exc()
        where = f" {error.filename}" if error.filename else ""
        console.error(
            error, f"The system refused{where}: {error.strerror or error}. Check path, permissions and space."
        )
        return 1
    except Exception as error:
        if os.environ.get("PANOPTIC_DEBUG"):
            traceback.print_exc()
        where = _origin(error)
        message = " ".join(str(error).split())[:600] or "no message"
        console.error(
            error,
            f"{type(error).__name__} in {where}: {message} "
            "This is a bug in panoptic: run again with PANOPTIC_DEBUG=1 and report the traceback with "
            "the output of panoptic doctor.",
        )
        return 1


def _usage_error(error: typer.TyperException) -> int:
    message = error.format_message() if hasattr(error, "format_message") else str(error)
    if not message:  # the help page that no_args_is_help shows
        return int(getattr(error, "exit_code", 2))
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "panoptic"
    console.error(error, f"{message.rstrip('.')}. See '{path} --help'.")
    return int(getattr(error, "exit_code", 2))


def _origin(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "panoptic_cli" in frame.filename or "commands" in frame.filename]
    frame = (ours or frames)[-1]
    return f"{os.path.basename(frame.filename)}:{frame.lineno}"


def main() -> None:
    """Entry point of the console script."""
    own_stderr()
    sys.exit(run(sys.argv[1:]))
