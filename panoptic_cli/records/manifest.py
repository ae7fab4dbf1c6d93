"""The manifest of a split's shards, and which existing shards are still valid.

The manifest `{prefix}.manifest.json` has an entry for each complete shard: the fingerprint of its inputs and options,
bytes, checksum and counts.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from panoptic_cli import console
from panoptic_cli.categories import CategoryTable, read_categories
from panoptic_cli.coco.dataset import PanopticDataset
from panoptic_cli.coco.file_names import find_file
from panoptic_cli.coco.layout import CATEGORIES_FILE
from panoptic_cli.coco.tables import flag_conflicts
from panoptic_cli.errors import DataError, listed
from panoptic_cli.files import read_json, remove, remove_left, write_json
from panoptic_cli.records.plans import ConversionPlan
from panoptic_cli.records.regrouping import Regrouping

SCHEMA_VERSION = 3  # increase it if the same input gives other pixels or numbers; how they are compressed is free
COUNTS = ("pictures", "objects", "crowds", "segments")


def common_digest(plan: ConversionPlan, dataset: PanopticDataset, regrouping: Regrouping) -> str:
    """Returns the digest of everything that all shards depend on."""
    files = plan.files
    parts = [SCHEMA_VERSION, dataset.digests, files.object_annotations is None, plan.shards, plan.on_bad_data]
    parts += [files.exif, regrouping.new_ids, regrouping.table.to_list(), regrouping.merge_stuff]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


class Fingerprint:
    """The digest of everything that one shard depends on, with sizes and modification times of pictures and masks."""

    def __init__(self, plan: ConversionPlan, common: str) -> None:
        self._folders = plan.files.image_dir, plan.files.panoptic_masks
        self._digest = hashlib.sha256(common.encode())

    def add(self, file_name: str, mask_name: str) -> None:
        """Adds a picture."""
        for folder, name in zip(self._folders, (file_name, mask_name), strict=True):
            try:
                state = _state(os.path.join(folder, name)) if name else "none"
            except OSError:
                try:
                    state = _state(find_file(folder, name)[0])
                except OSError:
                    state = "missing"
            self._digest.update(f"{name} {state}\n".encode())

    def hexdigest(self) -> str:
        """Returns the digest of the pictures added so far."""
        return self._digest.hexdigest()


def _state(path: str | Path) -> str:
    stat = os.stat(path)
    return f"{stat.st_size} {stat.st_mtime_ns}"


def clear_stale(plan: ConversionPlan) -> dict[str, dict[str, Any]]:
    """Removes shards of earlier runs that this run will not overwrite; returns the manifest's entries by file name.

    A pattern like val-* would read shards of another count together with ours. Those that our manifest lists are
    removed. Others are an error, because someone else made them.

    Raises:
        DataError: the folder contains shards of this prefix that the manifest does not list.
    """
    prefix = plan.files.name
    entries: dict[str, dict[str, Any]] = {}
    if plan.manifest_path.is_file():
        value = _read(plan)
        shards = value.get("shards") if isinstance(value, dict) else None
        for entry in shards if isinstance(shards, list) else []:
            if _is_entry(entry):
                entries[entry["name"]] = entry
    ours = {plan.shard_name(index) for index in range(plan.shards)}
    others = [path for path in _shard_files(plan.output_dir, prefix) if path.name not in ours]
    unknown = sorted(path.name for path in others if path.name not in entries)
    if unknown:
        raise DataError(
            f"{plan.output_dir} contains shards of another conversion: {listed(unknown, 3)}.",
            "Remove them, or give another --output-dir.",
        )
    for path in others:
        remove(path)
    remove_partial(plan)
    return entries


def _read(plan: ConversionPlan) -> Any:
    try:
        return read_json(plan.manifest_path, "manifest")
    except DataError as error:
        console.warn(f"{error.message} All shards of {plan.files.name} are made again.")
        return None


def write_categories(plan: ConversionPlan, table: CategoryTable, together: frozenset[str] = frozenset()) -> None:
    """Writes categories.json, which all splits in a folder share; warns if it changes.

    Args:
        plan: the conversion.
        table: its categories.
        together: names of splits whose records are made again.

    Raises:
        DataError: records of another split are there, of which a thing is stuff here or the reverse.
    """
    path = plan.output_dir / CATEGORIES_FILE
    others = [p.name.removesuffix(".manifest.json") for p in plan.output_dir.glob("*.manifest.json")]
    others = sorted(set(others) - together - {plan.files.name})
    if others and path.is_file() and read_json(path, "categories") != table.to_list():
        if found := flag_conflicts(table, read_categories(path)):
            raise DataError(
                f"The categories of {plan.files.name} contradict those of the records of {listed(others)} in "
                f"{plan.output_dir}: {listed(found, 3)}.",
                "Give both splits the same isthing; to make all records again, remove those first.",
            )
        console.warn(
            f"{path} changes: the records of {listed(others)} were made with other categories. Convert those again "
            "as well, or give another --output-dir."
        )
    write_json(path, table.to_list())


def _is_entry(value: Any) -> bool:
    """Whether this is an entry as this version writes it; earlier versions wrote other entries."""
    kinds = {"name": str, "fingerprint": str, "bytes": int, "crc32c": int}
    kinds |= dict.fromkeys(("counts", "skipped_objects", "skipped_pictures", "notes"), dict)
    if not isinstance(value, dict) or not all(isinstance(value.get(key), kind) for key, kind in kinds.items()):
        return False
    return all(isinstance(value["counts"].get(name), int) for name in COUNTS)


def remove_partial(plan: ConversionPlan) -> None:
    """Removes the temporary files of killed processes."""
    for pattern in (f"{plan.files.name}-*", plan.manifest_path.name):
        remove_left(plan.output_dir, pattern)


def _shard_files(folder: Path, prefix: str) -> Iterator[Path]:
    pattern = re.compile(rf"{re.escape(prefix)}-\d{{5}}-of-\d{{5}}\.tfrecord")
    return (path for path in folder.iterdir() if pattern.fullmatch(path.name))


def write_manifest(plan: ConversionPlan, table: CategoryTable, entries: dict[int, dict[str, Any]]) -> None:
    """Writes the manifest of the complete shards, given by index, and of the categories that they were made with."""
    value = {
        "schema": SCHEMA_VERSION,
        "prefix": plan.files.name,
        "num_shards": plan.shards,
        "complete": len(entries) == plan.shards,
        "categories": table.to_list(),
        "shards": [entries[index] for index in sorted(entries)],
    }
    write_json(plan.manifest_path, value)
