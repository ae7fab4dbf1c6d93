"""Whether record files are one whole set: a conversion's shards, all of them and no others.

Names tell most (train-00002-of-00008), the manifest of a conversion the rest. Files are not read.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from panoptic_cli import storage
from panoptic_cli.categories import CategoryTable
from panoptic_cli.errors import DataError, listed
from panoptic_cli.files import read_json
from panoptic_cli.records.files import SHARD_NAME, find_record_files, other_sets


def set_problems(pattern: str, table: CategoryTable | None = None) -> list[str]:
    """Returns what is doubtful about the record files of a pattern, a sentence each.

    Args:
        pattern: of existing record files, see `find_record_files`.
        table: the categories that the records are read with; None: do not compare.
    """
    problems = [
        f"{part} also matches {listed([os.path.basename(path) for path in others], 2)}, which belong to another set "
        "and are omitted. To read both, give both patterns with a comma between them."
        for part, others in other_sets(pattern).items()
    ]
    files = find_record_files(pattern)
    empty = [path for path in files if not storage.size(path) and not _wrote_nothing(path)]
    if empty:
        problems.append(f"{listed(empty, 3)}: the file is empty. Convert or copy it again.")
    sets: dict[tuple[str, str], dict[int, list[str]]] = defaultdict(lambda: defaultdict(list))
    for path in files:
        match = SHARD_NAME.fullmatch(os.path.basename(path))
        if match:
            sets[os.path.dirname(path), match[1]][int(match[3])].append(path)
    for (folder, prefix), by_total in sorted(sets.items()):
        name = f"{folder}/{prefix}-*"
        if len(by_total) > 1:
            totals = " and ".join(f"{total:,}" for total in sorted(by_total))
            problems.append(
                f"{name} has shards of conversions to {totals} files: pictures may be there twice. Delete the older "
                "shards."
            )
        for total, paths in sorted(by_total.items()):
            numbers = {int(SHARD_NAME.fullmatch(os.path.basename(path))[2]) for path in paths}  # type: ignore[index]
            missing = [f"{prefix}-{number:05d}-of-{total:05d}" for number in range(total) if number not in numbers]
            if missing:
                problems.append(f"{name}: {len(missing):,} of {total:,} shards are missing: {listed(missing, 3)}.")
        if not storage.is_remote(folder):
            shards = [Path(path) for paths in by_total.values() for path in paths]
            problems += _compare_with_manifest(Path(folder) / f"{prefix}.manifest.json", shards, table)
    return problems


def _wrote_nothing(path: str) -> bool:
    """Whether a shard is empty because its conversion had more shards than pictures."""
    match = SHARD_NAME.fullmatch(os.path.basename(path))
    if match is None or storage.is_remote(path):
        return False
    return _read_manifest(Path(path).parent / f"{match[1]}.manifest.json")[1].get(os.path.basename(path)) == 0


def _read_manifest(manifest: Path) -> tuple[dict[str, Any], dict[str, int]]:
    """Returns what a conversion wrote down, and the bytes of each shard by name; nothing if there is no manifest."""
    if not manifest.is_file():
        return {}, {}
    try:
        value = read_json(manifest, "manifest")
        return value, {entry["name"]: entry["bytes"] for entry in value["shards"]}
    except (DataError, KeyError, TypeError):
        return {}, {}  # not ours; `inspect` reports it


def _compare_with_manifest(manifest: Path, shards: Sequence[Path], table: CategoryTable | None) -> list[str]:
    """Compares names, sizes and categories with what the conversion wrote down."""
    value, sizes = _read_manifest(manifest)
    if not value:
        return []
    problems = []
    changed = [path.name for path in shards if sizes.get(path.name) != path.stat().st_size]
    if changed:
        problems.append(
            f"{listed(changed, 3)} in {manifest.parent} {'is' if len(changed) == 1 else 'are'} not what the "
            f"conversion in {manifest.name} wrote. Check them with panoptic inspect, or convert again."
        )
    different = _different_categories(value.get("categories"), table) if table else []
    if different:
        problems.append(
            f"The records {manifest.parent}/{manifest.name.removesuffix('.manifest.json')}-* were made with other "
            f"categories: {listed(different, 3)}. Convert them again."
        )
    return problems


def _different_categories(listing: Any, table: CategoryTable) -> list[str]:
    """Returns the categories that differ, in words; nothing where the manifest has no table."""
    try:
        theirs = {c.id: c for c in CategoryTable.from_list(listing, "manifest").categories} if listing else {}
    except DataError:
        return []
    found = []
    for identifier in sorted(theirs.keys() | table.by_id.keys()) if theirs else ():
        one, other = theirs.get(identifier), table.by_id.get(identifier)
        if one is None or other is None or (one.name, one.isthing) != (other.name, other.isthing):
            names = [
                "missing" if c is None else f"{c.name!r} ({'thing' if c.isthing else 'stuff'})" for c in (one, other)
            ]
            found.append(f"category {identifier} is {names[0]} there, {names[1]} here")
    return found
