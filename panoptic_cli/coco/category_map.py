"""Category maps: a user's YAML file that renames, merges, renumbers and drops categories.

Each key is a category's name or id, or "*" for all others. Its value is a new name, `thing`, `stuff` or `drop`, or a
mapping with `name`, `isthing` and `id`. Categories that get the same name become one.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from panoptic_cli import console
from panoptic_cli.categories import MAX_CATEGORY_ID, Category, CategoryTable
from panoptic_cli.errors import ConfigError, listed, one_line, summarize

_OTHERS = "*"
_KINDS = {"thing": True, "stuff": False}
_FLAGS = {"1": True, "true": True, "0": False, "false": False}
_ALIKE = 0.8  # of these words and a new name: from here on it may be a slip
_FIELDS = ("name", "isthing", "id")
_HINT = "A value is a new name, thing, stuff, drop, or a mapping with name, isthing and id."


@dataclass(frozen=True)
class CategoryMap:
    """What becomes of each category.

    Attributes:
        table: the new categories.
        new_ids: new id by old id; dropped categories are absent.
        dropped: names of the dropped categories.
    """

    table: CategoryTable
    new_ids: dict[int, int]
    dropped: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Says how many categories are left, and which are dropped."""
        dropped = f"; dropped: {listed(self.dropped, 5)}" if self.dropped else ""
        total = len(self.new_ids) + len(self.dropped)
        return f"{total} categories become {len(self.table.categories)}{dropped}"


@dataclass(frozen=True)
class _Rule:
    name: str | None = None
    isthing: bool | None = None
    id: int | None = None
    drop: bool = False


def read_category_map(path: Path, table: CategoryTable) -> CategoryMap:
    """Reads a category map and applies it to a table; says what it changes.

    Args:
        path: the YAML file.
        table: the data set's categories.

    Raises:
        ConfigError: the file is missing, is not YAML or has another form; names categories that the table lacks; or
            things and stuff, two ids or two categories of one id would be merged. Lists all such problems.
    """
    rules = _read_rules(path)
    problems: list[str] = []
    chosen = _choose(rules, table, problems)
    merged: dict[str, list[tuple[Category, _Rule]]] = {}
    for category, rule in chosen:
        if not rule.drop:
            merged.setdefault(rule.name or category.name, []).append((category, rule))
    new = {name: _merge(name, members, problems) for name, members in merged.items()}
    owners: dict[int, str] = {}
    for category in new.values():
        other = owners.setdefault(category.id, category.name)
        if other != category.name:
            problems.append(f"{other} and {category.name} both get the id {category.id}; give one of them another id")
    if not new:
        problems.append("it drops every category")
    if problems:
        raise ConfigError(f"The category map {path} does not fit the categories: {summarize(problems)}.")
    new_ids = {old.id: new[name].id for name, members in merged.items() for old, _ in members}
    dropped = tuple(category.name for category, rule in chosen if rule.drop)
    found = CategoryMap(CategoryTable(tuple(new.values())), new_ids, dropped)
    _note(f"{path}: {found}.")
    return found


@functools.cache  # a command may read the same file several times
def _note(text: str) -> None:
    console.info(text)


def _choose(rules: dict[str, _Rule], table: CategoryTable, problems: list[str]) -> list[tuple[Category, _Rule]]:
    """Pairs each category with its rule: that of its name, of its id, of all others, or none."""
    names = {category.name for category in table.categories}
    ids = {str(category.id): category.name for category in table.categories}
    for key in sorted(rules.keys() - names - ids.keys() - {_OTHERS}):
        close = difflib.get_close_matches(key, names, n=2)
        hint = f"did you mean {' or '.join(close)}?" if close else f"known: {listed(sorted(names), 30)}"
        problems.append(f"there is no category {key} ({hint})")
    others = rules.get(_OTHERS, _Rule())
    chosen = []
    for category in table.categories:
        # A key that is the name of one category and the id of another is the name.
        keys = [category.name, *({str(category.id)} - names)]
        found = [rules[key] for key in keys if key in rules]
        if len(found) > 1:
            problems.append(f"{category.name} is there twice, also as id {category.id}")
        chosen.append((category, found[0] if found else others))
    return chosen


def _merge(name: str, members: Sequence[tuple[Category, _Rule]], problems: list[str]) -> Category:
    """Makes one category; what the map does not say comes from the category of that name, else from the first."""
    lead = next((category for category, _ in members if category.name == name), members[0][0])
    kinds = {rule.isthing for _, rule in members if rule.isthing is not None} or {c.isthing for c, _ in members}
    ids = {rule.id for _, rule in members if rule.id is not None} or {lead.id}
    if len(kinds) > 1:
        shown = [f"{category.name} ({'thing' if category.isthing else 'stuff'})" for category, _ in members]
        problems.append(f"{name} merges things and stuff: {listed(shown, 5)}; set isthing to 1 or 0")
    if len(ids) > 1:
        problems.append(f"{name} gets several ids: {listed(sorted(ids))}")
    return replace(lead, id=min(ids), name=name, isthing=max(kinds))


def _read_rules(path: Path) -> dict[str, _Rule]:
    """Reads the rules by key. All scalars are read as text, so that `no` and `7` can be names."""
    try:
        root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
    except FileNotFoundError:
        raise ConfigError(f"The category map {path} does not exist.", "Check the path.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"The category map {path} cannot be read: {one_line(error)}.") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"The category map {path} is not valid YAML: {one_line(error)}.") from None
    if not isinstance(root, yaml.MappingNode):
        raise ConfigError(f"The category map {path} must be a mapping of categories.", _HINT)
    problems: list[str] = []
    rules: dict[str, _Rule] = {}
    for key, node, line in _pairs(root, "category", problems):
        try:
            rules[key] = _rule(node)
        except ValueError as error:
            problems.append(f"line {line}, {key}: {error}")
    if problems:
        raise ConfigError(f"The category map {path} cannot be understood: {summarize(problems)}.", _HINT)
    return rules


def _pairs(mapping: yaml.MappingNode, what: str, problems: list[str]) -> Iterator[tuple[str, yaml.Node, int]]:
    """Yields (key, value, line) of a mapping, each key once."""
    seen: set[str] = set()
    for key, value in mapping.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            problems.append(f"line {line}: a {what} must be a text")
        elif key.value in seen:
            problems.append(f"line {line}: {key.value} is there twice")
        else:
            seen.add(key.value)
            yield key.value, value, line


def _rule(node: yaml.Node) -> _Rule:
    if isinstance(node, yaml.ScalarNode):
        if not node.value:
            raise ValueError("it has no value")
        if node.value == "drop":
            return _Rule(drop=True)
        if node.value in _KINDS:
            return _Rule(isthing=_KINDS[node.value])
        if meant := difflib.get_close_matches(node.value.lower(), ("drop", *_KINDS), n=1, cutoff=_ALIKE):
            raise ValueError(f"did you mean {meant[0]}? A name that is like it is written {{name: {node.value}}}")
        return _Rule(name=node.value)
    if not isinstance(node, yaml.MappingNode):
        raise ValueError("a list is not a value")
    problems: list[str] = []
    fields = {key: value for key, value, _ in _pairs(node, "field", problems)}
    unknown = [key for key in fields if key not in _FIELDS]
    if problems or unknown:
        raise ValueError(problems[0] if problems else f"there is no field {unknown[0]}")
    values = {key: value.value if isinstance(value, yaml.ScalarNode) else "" for key, value in fields.items()}
    if values.get("isthing", "1").lower() not in _FLAGS:
        raise ValueError(f"isthing must be 0 or 1, not {values['isthing']!r}")
    number = values.get("id", "1")
    if not number.isdecimal() or not 1 <= int(number) <= MAX_CATEGORY_ID:
        raise ValueError(f"id must be an integer from 1 to {MAX_CATEGORY_ID}, not {number!r}")
    return _Rule(
        name=values.get("name") or None,
        isthing=_FLAGS[values["isthing"].lower()] if "isthing" in values else None,
        id=int(number) if "id" in values else None,
    )
