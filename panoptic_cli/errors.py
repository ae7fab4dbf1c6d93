"""The one family of errors that a user is meant to read.

Every message says what is wrong and where; the hint says what to do next. The command line prints both on one
line and exits with the class's exit code, without a traceback (set PANOPTIC_DEBUG=1 to see it).
"""

from __future__ import annotations

from collections.abc import Sequence

INTERRUPTED = 130  # exit code after Ctrl-C, as of a shell: 128 + SIGINT


class PanopticError(Exception):
    """Something we could not do.

    Args:
        message: what is wrong, and where (file, image, option).
        hint: what to do next: a command to run or an option to give.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        if not self.hint:
            return self.message
        return f"{self.message}\n{self.hint}" if "\n" in self.message else f"{self.message} {self.hint}"


class UsageError(PanopticError):
    """The call itself cannot be right: contradicting options, impossible values. Exit code 2."""

    exit_code = 2


class ConfigError(UsageError):
    """A configuration file, preset or override does not validate."""


class DataError(PanopticError):
    """A data set, record, picture or annotation file is missing, broken or inconsistent."""


class TransferError(PanopticError):
    """A download or an upload failed."""


class RunError(PanopticError):
    """A run directory or checkpoint is missing, incompatible or already used by another configuration."""


class TrainingError(PanopticError):
    """Training cannot go on, for example because a loss is not finite."""


class DeviceError(UsageError):
    """The devices asked for are not there."""


def summarize(problems: list[str], limit: int = 10) -> str:
    """Joins problems into one readable block, the first `limit` of them.

    Args:
        problems: one line each.
        limit: how many to show; the rest is counted.

    Returns:
        The problem itself where there is one; otherwise an indented list.
    """
    if len(problems) == 1:
        return problems[0]
    shown = "".join(f"\n  - {problem}" for problem in problems[:limit])
    rest = len(problems) - limit
    return shown + (f"\n  ... and {rest} more" if rest > 0 else "")


def listed(names: Sequence[object], limit: int = 10) -> str:
    """Joins names into one line: "a, b, c and 4 more".

    Args:
        names: what to name, in order.
        limit: how many to name; the rest is counted.
    """
    rest = len(names) - limit
    return ", ".join(str(name) for name in names[:limit]) + (f" and {rest:,} more" if rest > 0 else "")


def one_line(error: object, limit: int = 300) -> str:
    """Returns an error's text on one line, cut to `limit` characters; its type's name if it has no text."""
    return " ".join(str(error).split())[:limit].rstrip(" .") or type(error).__name__
