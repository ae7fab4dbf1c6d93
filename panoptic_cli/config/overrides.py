"""Dotted overrides: single assignments `a.b=c` (--set), or several with commas (--params-override)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from panoptic_cli.errors import ConfigError


def split_params(text: str) -> list[str]:
    """Splits a comma-separated text into single assignments.

    Commas inside brackets, braces or quotes belong to the value. Whitespace around assignments and a trailing comma are
    ignored.

    Args:
        text: "a.b=1, c.d=[2,3],\\n e=x".

    Returns:
        ["a.b=1", "c.d=[2,3]", "e=x"].
    """
    parts, current, depth, quote = [], "", 0, ""
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character in "[{(":
            depth += 1
        elif character in "]})":
            depth -= 1
        if character == "," and depth == 0 and not quote:
            parts.append(current)
            current = ""
        else:
            current += character
    parts.append(current)
    # A value may be a list without brackets, as in input_path=a*,b*: a part without "=" continues the value.
    joined: list[str] = []
    for part in (p.strip() for p in parts):
        if part and "=" not in part and joined:
            joined[-1] += "," + part
        elif part:
            joined.append(part)
    return joined


def parse_override(assignment: str) -> tuple[list[str], Any]:
    """Parses one `a.b=c`.

    Returns:
        The key's parts, and the value parsed as YAML: numbers, true/false, null, lists; anything else is text.

    Raises:
        ConfigError: there is no key or no "=".
    """
    key, equals, text = assignment.partition("=")
    parts = [part.strip() for part in key.strip().split(".")]
    if not equals or not all(parts):
        raise ConfigError(
            f"The override '{assignment}' does not have the form key.subkey=value.",
            "For example: trainer.train_steps=1000.",
        )
    text = text.strip()
    if text.lower() in ("none", "null", "~"):
        return parts, None
    try:
        value = yaml.safe_load(text) if text else ""
    except (yaml.YAMLError, ValueError):  # ValueError: something that looks like a date and is none
        value = text
    return parts, value


def apply_overrides(tree: dict[str, Any], assignments: Iterable[str]) -> None:
    """Applies overrides to a nested dictionary, in order; later ones win.

    Raises:
        ConfigError: an override is malformed, or its key is below a value that is not a section.
    """
    for assignment in assignments:
        parts, value = parse_override(assignment)
        section = _section(tree, parts, f"The override '{assignment}'")
        if isinstance(value, dict) and isinstance(section.get(parts[-1]), dict):
            merge(section[parts[-1]], value)
        else:
            section[parts[-1]] = value


def set_key(tree: dict[str, Any], key: str, value: Any) -> None:
    """Sets a dotted key in a nested dictionary and creates missing sections.

    Raises:
        ConfigError: the key is below a value that is not a section.
    """
    parts = key.split(".")
    _section(tree, parts, f"The option for {key}")[parts[-1]] = value


def _section(tree: dict[str, Any], parts: list[str], what: str) -> dict[str, Any]:
    """Returns the section that contains the last part of a key; `what` starts the error message."""
    section = tree
    for depth, part in enumerate(parts[:-1], start=1):
        below = section.setdefault(part, {})
        if not isinstance(below, dict):
            raise ConfigError(f"{what} is below {'.'.join(parts[:depth])}, which is a value, not a section.")
        section = below
    return section


def merge(tree: dict[str, Any], update: Mapping[str, Any]) -> dict[str, Any]:
    """Merges `update` into `tree` in place, section by section, and returns `tree`."""
    for key, value in update.items():
        if isinstance(value, Mapping) and isinstance(tree.get(key), dict):
            merge(tree[key], value)
        else:
            tree[key] = value
    return tree
