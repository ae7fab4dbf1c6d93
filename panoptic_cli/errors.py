"""The errors that users read.

The message says what is wrong and where; the hint says what to do next. The command line prints both on one line and
exits with the class's exit code. It prints no traceback unless PANOPTIC_DEBUG=1 is set.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_SINGULAR_VERBS = {"are": "is", "were": "was", "have": "has", "do": "does", "differ": "differs"}
INTERRUPTED = 130  # exit code after Ctrl-C: 128 + SIGINT, as in a shell


class PanopticError(Exception):
    """Base class: the command cannot do what was asked.

    Args:
        message: what is wrong and where (file, picture, option).
        hint: what to do next: a command to run, an option to give.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = _tidy(message)
        self.hint = hint

    def __str__(self) -> str:
        if not self.hint:
            return self.message
        return f"{self.message}\n{self.hint}" if "\n" in self.message else f"{self.message} {self.hint}"


class UsageError(PanopticError):
    """The command line is wrong: contradicting options, impossible values. Exit code 2."""

    exit_code = 2


class ConfigError(UsageError):
    """A configuration file, preset or override is not valid."""


class DataError(PanopticError):
    """A data set, record, picture or annotation file is missing, broken or inconsistent."""


class TransferError(PanopticError):
    """A download or an upload failed."""


class RunError(PanopticError):
    """A run directory or checkpoint is missing, incompatible, or belongs to another configuration."""


class TrainingError(PanopticError):
    """Training cannot continue, for example because a loss is not finite."""


class DeviceError(UsageError):
    """The requested devices are not available."""


def _tidy(message: str) -> str:
    """Removes the sentence's period after the last line of a list, and the space before the list."""
    first, newline, items = message.partition("\n")
    return f"{first.rstrip()}\n{items.removesuffix('.')}" if newline else message


_OF_PYDANTIC = {
    "Value error, ": "",
    "Input should": "must",
    "a valid integer": "an integer",
    "a valid number": "a number",
    "a valid string": "a text",
    "a valid boolean": "true or false",
    "greater than or equal to": "at least",
    "less than or equal to": "at most",
}


def plain_check(message: str) -> str:
    """Returns what pydantic says of a value in plain words: "must be an integer"."""
    message = re.split(", (?:unable to|got a number) ", message)[0]
    for theirs, ours in _OF_PYDANTIC.items():
        message = message.replace(theirs, ours)
    return message


def summarize(problems: list[str], limit: int = 10) -> str:
    """Joins problems into a block of lines.

    Args:
        problems: one line each.
        limit: how many to show; the others are counted.

    Returns:
        A single problem unchanged; several as an indented list.
    """
    if len(problems) == 1:
        return problems[0]
    shown = "".join(f"\n  - {problem}" for problem in problems[:limit])
    rest = len(problems) - limit
    return shown + (f"\n  ... and {rest} more" if rest > 0 else "")


def listed(names: Sequence[object], limit: int = 10) -> str:
    """Joins names into one line: "a, b, c and 4 more".

    Args:
        names: the names, in order.
        limit: how many to show; the others are counted.
    """
    rest = len(names) - limit
    return ", ".join(str(name) for name in names[:limit]) + (f" and {rest:,} more" if rest > 0 else "")


def counted(count: int, phrase: str) -> str:
    """Returns a number with what it counts, in the singular for 1: "1 picture", "2,000 pictures".

    Args:
        count: the number.
        phrase: a noun in the plural, with words around it: "bad pictures that are left out". The noun is the first word
            that ends in "s". "are", "were", "have", "do" and "differ" right after it are changed, too.
    """
    if count != 1:
        return f"{count:,} {phrase}"
    words = phrase.split(" ")
    for place, word in enumerate(words):
        noun = word.rstrip(",.:;")
        if noun.endswith("s") and not noun.endswith(("ss", "us", "is")):
            words[place] = _singular(noun) + word[len(noun) :]
            words[place + 1 : place + 2] = [_SINGULAR_VERBS.get(verb, verb) for verb in words[place + 1 : place + 2]]
            break
    return f"1 {' '.join(words)}"


def _singular(noun: str) -> str:
    if noun.endswith("ies"):
        return f"{noun[:-3]}y"
    return noun[:-2] if noun.endswith(("sses", "xes", "shes", "ches")) else noun[:-1]


def one_line(error: object, limit: int = 300) -> str:
    """Returns an error's text on one line, without a final period, or the name of its type if it has no text.

    Args:
        error: an exception or its text.
        limit: the longest text to return, in characters.
    """
    return " ".join(str(error).split())[:limit].rstrip(" .") or type(error).__name__
