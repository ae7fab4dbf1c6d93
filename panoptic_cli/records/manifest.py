"""What a folder of shards holds already: the manifest of a split, and which of its shards still fit.

The manifest `{prefix}.manifest.json` has an entry for each whole shard: the fingerprint of its inputs and options,
bytes, checksum and counts.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from panoptic_cli import console
from panoptic_cli.categories import CategoryTable
from panoptic_cli.coco.dataset import PanopticDataset
from panoptic_cli.coco.layout import CATEGORIES_FILE, SplitFiles
from panoptic_cli.errors import DataError
from panoptic_cli.files import read_json, remove, write_json

SCHEMA_VERSION = 2  # raise it when the same input gives other records
OnBadData = Literal["fail", "skip"]
COUNTS = ("pictures", "objects", "crowds", "segments")


@dataclass(frozen=True)
class ConversionPlan:
    """What is to be converted.

    Attributes:
        files: the split; its name is the shards' prefix.
        output_dir: where the shards go.
        shards: how many.
        on_bad_data: "fail" at the first picture that cannot be converted, or "skip" and count it.
    """

    files: SplitFiles
    output_dir: Path
    shards: int
    on_bad_data: OnBadData = "fail"

    def shard_name(self, index: int) -> str:
        """File name of a shard: {prefix}-00000-of-00032.tfrecord."""
        return f"{self.files.name}-{index:05d}-of-{self.shards:05d}.tfrecord"

    @property
    def manifest_path(self) -> Path:
        """The manifest of the split."""
        return self.output_dir / f"{self.files.name}.manifest.json"


def common_digest(plan: ConversionPlan, dataset: PanopticDataset) -> str:
    """Digest of everything that all shards depend on."""
    parts = [SCHEMA_VERSION, dataset.digests, plan.files.object_annotations is None, plan.shards, plan.on_bad_data]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


class Fingerprint:
    """Digest of what one shard depends on: the pictures' and masks' sizes and times of change, too."""

    def __init__(self, plan: ConversionPlan, common: str) -> None:
        self._folders = str(plan.files.image_dir), str(plan.files.panoptic_masks)
        self._digest = hashlib.sha256(common.encode())

    def add(self, file_name: str, mask_name: str) -> None:
        """Adds a picture."""
        for folder, name in zip(self._folders, (file_name, mask_name), strict=True):
            try:
                stat = os.stat(os.path.join(folder, name))
                state = f"{stat.st_size} {stat.st_mtime_ns}"
            except OSError:
                state = "missing"
            self._digest.update(f"{name} {state}\n".encode())

    def hexdigest(self) -> str:
        """The digest of all that was added."""
        return self._digest.hexdigest()


def clear_stale(plan: ConversionPlan) -> dict[str, dict[str, Any]]:
    """Removes shards that earlier runs left and this one will not overwrite; returns the manifest's entries.

    Shards of another count would be read together with ours by a pattern like val-*, so they have to go:
    those that our manifest lists are removed, others are not ours to remove.
    """
    prefix = plan.files.name
    entries: dict[str, dict[str, Any]] = {}
    if plan.manifest_path.is_file():
        value = read_json(plan.manifest_path, "manifest")
        listed = value.get("shards") if isinstance(value, dict) else None
        for entry in listed if isinstance(listed, list) else []:
            if _is_entry(entry):
                entries[entry["name"]] = entry
    ours = {plan.shard_name(index) for index in range(plan.shards)}
    others = [path for path in _shard_files(plan.output_dir, prefix) if path.name not in ours]
    strange = [path.name for path in others if path.name not in entries]
    if strange:
        raise DataError(
            f"{plan.output_dir} holds shards of another conversion: {', '.join(sorted(strange)[:3])}"
            f"{' ...' if len(strange) > 3 else ''}.",
            "Remove them, or give another --output-dir.",
        )
    for path in others:
        remove(path)
    remove_partial(plan)
    return entries


def write_categories(plan: ConversionPlan, table: CategoryTable) -> None:
    """Writes categories.json, which all splits in a folder share."""
    path = plan.output_dir / CATEGORIES_FILE
    others = [p.name.removesuffix(".manifest.json") for p in plan.output_dir.glob("*.manifest.json")]
    others = sorted(name for name in others if name != plan.files.name)
    if others and path.is_file() and read_json(path, "categories") != table.to_list():
        console.warn(
            f"{path} changes: the records of {', '.join(others)} were made with other categories. Convert them again "
            "as well, or give another --output-dir."
        )
    write_json(path, table.to_list())


def _is_entry(value: Any) -> bool:
    """Whether this is an entry as we write it; those of earlier versions of this program are not."""
    kinds = {"name": str, "fingerprint": str, "bytes": int, "crc32c": int}
    kinds |= dict.fromkeys(("counts", "skipped_objects", "skipped_pictures", "notes"), dict)
    if not isinstance(value, dict) or not all(isinstance(value.get(key), kind) for key, kind in kinds.items()):
        return False
    return all(isinstance(value["counts"].get(name), int) for name in COUNTS)


def remove_partial(plan: ConversionPlan) -> None:
    """Removes what processes that were killed left under temporary names."""
    for path in plan.output_dir.glob(f".{plan.files.name}-*.partial"):
        remove(path)


def _shard_files(folder: Path, prefix: str) -> Iterator[Path]:
    pattern = re.compile(rf"{re.escape(prefix)}-\d{{5}}-of-\d{{5}}\.tfrecord")
    return (path for path in folder.iterdir() if pattern.fullmatch(path.name))


def write_manifest(plan: ConversionPlan, entries: dict[int, dict[str, Any]]) -> None:
    """Writes the manifest of the shards that are whole, given by index."""
    value = {
        "schema": SCHEMA_VERSION,
        "prefix": plan.files.name,
        "num_shards": plan.shards,
        "complete": len(entries) == plan.shards,
        "shards": [entries[index] for index in sorted(entries)],
    }
    write_json(plan.manifest_path, value)
