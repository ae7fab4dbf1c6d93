"""Conversion of a panoptic data set to sharded TFRecords: parallel, repeatable, safe to interrupt.

Picture i of the list sorted by id goes to shard i % shards, so the shards' content does not depend on the
number of workers. A shard is one unit of work: written under a temporary name, renamed when whole, then
entered in the manifest `{prefix}.manifest.json`. A later run keeps shards whose manifest entry fits inputs
and options and whose checksum is right: that takes a hundredth of the time of making them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from panoptic_cli import console
from panoptic_cli.categories import MAX_CATEGORY_ID, CategoryTable
from panoptic_cli.datasets.coco import PanopticDataset, Pictures, read_dataset, require_sound
from panoptic_cli.datasets.layout import CATEGORIES_FILE, SplitFiles
from panoptic_cli.datasets.picture_files import PictureError
from panoptic_cli.datasets.picture_records import NOTE, SKIPPED, PictureEncoder
from panoptic_cli.datasets.tfrecord import TFRecordWriter, file_crc32c
from panoptic_cli.datasets.workers import run_units
from panoptic_cli.errors import DataError
from panoptic_cli.files import atomic_path, read_json, remove, write_json
from panoptic_cli.interrupts import terminate_as_interrupt
from panoptic_cli.locks import folder_lock

SCHEMA_VERSION = 2  # raise it when the same input gives other records
OnBadData = Literal["fail", "skip"]
_COUNTS = ("pictures", "objects", "crowds", "segments")
_PROGRESS_EVERY = 8  # pictures


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


@dataclass
class ConversionSummary:
    """What a conversion did.

    Attributes:
        prefix: of the shards.
        shards: how many there are.
        kept_shards: how many were whole already.
        pictures: in the records, kept shards included; so are the counts below.
        objects: object annotations, crowds included.
        crowds: of them, crowds.
        segments: panoptic segments.
        bytes: size of the shards.
        skipped_objects: by reason.
        skipped_pictures: by reason.
        notes: what was done to pictures or objects that the user should know of, and how often.
        seconds: wall time.
        images_per_second: converted now, per second of wall time.
    """

    prefix: str
    shards: int
    kept_shards: int = 0
    pictures: int = 0
    objects: int = 0
    crowds: int = 0
    segments: int = 0
    bytes: int = 0
    skipped_objects: dict[str, int] = field(default_factory=dict)
    skipped_pictures: dict[str, int] = field(default_factory=dict)
    notes: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    images_per_second: float = 0.0


@dataclass(frozen=True)
class _Shard:
    """One unit of work."""

    index: int
    path: Path
    pictures: Pictures
    common: str  # digest of what all shards depend on


def convert(
    plan: ConversionPlan, dataset: PanopticDataset, workers: int, run: Callable[..., Generator[Any]] = run_units
) -> ConversionSummary:
    """Converts a split.

    Args:
        plan: what and where to.
        dataset: the split as read_dataset(plan.files) returned it.
        workers: processes; 1 works in this one.
        run: hands the shards to workers, as `workers.run_units` does.

    Returns:
        The counts of all shards.

    Raises:
        DataError: the annotations have problems, a picture cannot be converted (with on_bad_data "fail"), or
            output_dir holds shards of this prefix that no manifest of ours explains.
        RunError: another conversion writes to output_dir.
    """
    _require_small_ids(dataset)
    require_sound(dataset, skip_bad_pictures=plan.on_bad_data == "skip")
    try:
        plan.output_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"The output folder {plan.output_dir} cannot be made: {error.strerror}.",
            "Give another --output-dir.",
        ) from None
    with folder_lock(plan.output_dir, "panoptic make-tfrecords", "give another --output-dir"):
        return _convert(plan, dataset, workers, run)


def _convert(
    plan: ConversionPlan, dataset: PanopticDataset, workers: int, run: Callable[..., Generator[Any]]
) -> ConversionSummary:
    """Converts what is not there yet; nobody else writes to the folder."""
    begun = time.monotonic()
    common = _fingerprint(plan, dataset)
    done = _clear_stale(plan)
    shards = [
        _Shard(index, plan.output_dir / plan.shard_name(index), dataset.pictures[index :: plan.shards], common)
        for index in range(plan.shards)
    ]
    entries = _whole_shards(plan, shards, done, workers)
    kept = sum(entry["counts"]["pictures"] for entry in entries.values())
    todo = [shard for shard in shards if shard.index not in entries]
    for shard in todo:
        remove(shard.path)  # stale: if this run is interrupted, old and new must not lie side by side
    _write_categories(plan, dataset.table)
    _write_manifest(plan, entries)
    work = partial(_convert_shard, plan, dataset.table)
    total = len(dataset.pictures)
    already = total - sum(len(shard.pictures) for shard in todo)
    try:
        with (
            terminate_as_interrupt(),
            console.progress(f"Converting {plan.files.name}", total, "images", start=already) as advance,
            contextlib.closing(run(work, todo, min(workers, len(todo)), advance)) as outcomes,
        ):
            for index, entry in outcomes:
                entries[index] = entry
                _write_manifest(plan, entries)
    except BaseException:
        _remove_partial(plan)  # of a worker that was killed
        raise
    summary = _summarize(plan, dataset, entries)
    summary.kept_shards = plan.shards - len(todo)
    summary.seconds = time.monotonic() - begun
    summary.images_per_second = (summary.pictures - kept) / max(summary.seconds, 1e-9)
    return summary


def read_plan(plan: ConversionPlan) -> PanopticDataset:
    """Reads the data set of a plan and makes sure that its category ids fit 16-bit label pictures.

    Raises:
        DataError: a file is missing or is none of COCO's form, its category table is not usable or its ids are too
            large; what is wrong with single pictures is in `PanopticDataset.problems`.
    """
    dataset = read_dataset(plan.files)
    _require_small_ids(dataset)
    return dataset


def _require_small_ids(dataset: PanopticDataset) -> None:
    if dataset.table.max_id > MAX_CATEGORY_ID:
        raise DataError(
            f"{dataset.files.panoptic_annotations} has a category id of {dataset.table.max_id}; "
            f"records hold ids up to {MAX_CATEGORY_ID}.",
            "Number the categories anew.",
        )


def _convert_shard(
    plan: ConversionPlan, table: CategoryTable, shard: _Shard, advance: Callable[[int], None]
) -> tuple[int, dict[str, Any]]:
    """Writes one shard; returns its index and its manifest entry."""
    encoder = PictureEncoder(plan.files, table)
    counts: Counter[str] = Counter()
    skipped_pictures: Counter[str] = Counter()
    fingerprint = _Fingerprint(plan, shard.common)
    pending = 0
    with atomic_path(shard.path) as partial_path, TFRecordWriter(partial_path) as writer:
        for picture in shard.pictures:
            fingerprint.add(picture.file_name, picture.mask_name)
            try:
                record, found = encoder.encode(picture)
            except PictureError as error:
                if plan.on_bad_data == "fail":
                    raise DataError(
                        f"Picture {picture.id} ({picture.file_name}) cannot be converted: {error}.",
                        "Repair it ('panoptic inspect' lists all such pictures), or give --on-bad-data skip.",
                    ) from None
                skipped_pictures[error.reason] += 1
            else:
                writer.write(record)
                counts.update(found)
            pending += 1
            if pending == _PROGRESS_EVERY:
                advance(pending)
                pending = 0
    advance(pending)
    return shard.index, {
        "name": shard.path.name,
        "fingerprint": fingerprint.hexdigest(),
        "bytes": writer.bytes,
        "crc32c": writer.crc32c,
        "counts": {"pictures": writer.records, **{name: counts[name] for name in _COUNTS[1:]}},
        "skipped_objects": _beginning_with(SKIPPED, counts),
        "skipped_pictures": dict(sorted(skipped_pictures.items())),
        "notes": _beginning_with(NOTE, counts),
    }


def _beginning_with(prefix: str, counts: Counter[str]) -> dict[str, int]:
    return {key.removeprefix(prefix): n for key, n in sorted(counts.items()) if key.startswith(prefix)}


def _whole_shards(
    plan: ConversionPlan, shards: list[_Shard], done: dict[str, dict[str, Any]], workers: int
) -> dict[int, dict[str, Any]]:
    """Returns the manifest's entries, by index, of the shards that need not be made again."""
    units = [(shard, done[shard.path.name]) for shard in shards if shard.path.name in done]
    if not units:
        return {}
    with (
        console.progress(f"Checking the shards of {plan.files.name}", len(units), "shards") as advance,
        contextlib.closing(run_units(partial(_is_whole, plan), units, min(workers, len(units)), advance)) as outcomes,
    ):
        whole = {index for index, is_whole in outcomes if is_whole}
    return {shard.index: entry for shard, entry in units if shard.index in whole}


def _is_whole(
    plan: ConversionPlan, unit: tuple[_Shard, dict[str, Any]], advance: Callable[[int], None]
) -> tuple[int, bool]:
    """Whether a shard's inputs and options are what they were and its bytes are what was written."""
    shard, entry = unit
    fingerprint = _Fingerprint(plan, shard.common)
    for place in range(len(shard.pictures)):
        fingerprint.add(*shard.pictures.names(place))
    same = entry["fingerprint"] == fingerprint.hexdigest()
    whole = same and shard.path.is_file() and shard.path.stat().st_size == entry["bytes"]
    whole = whole and file_crc32c(shard.path) == entry["crc32c"]
    advance(1)
    return shard.index, whole


def _fingerprint(plan: ConversionPlan, dataset: PanopticDataset) -> str:
    """Digest of everything that all shards depend on."""
    parts = [SCHEMA_VERSION, dataset.digests, plan.files.object_annotations is None, plan.shards, plan.on_bad_data]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


class _Fingerprint:
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


def _clear_stale(plan: ConversionPlan) -> dict[str, dict[str, Any]]:
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
    _remove_partial(plan)
    return entries


def _write_categories(plan: ConversionPlan, table: CategoryTable) -> None:
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
    return all(isinstance(value["counts"].get(name), int) for name in _COUNTS)


def _remove_partial(plan: ConversionPlan) -> None:
    """Removes what processes that were killed left under temporary names."""
    for path in plan.output_dir.glob(f".{plan.files.name}-*.partial"):
        remove(path)


def _shard_files(folder: Path, prefix: str) -> Iterator[Path]:
    pattern = re.compile(rf"{re.escape(prefix)}-\d{{5}}-of-\d{{5}}\.tfrecord")
    return (path for path in folder.iterdir() if pattern.fullmatch(path.name))


def _write_manifest(plan: ConversionPlan, entries: dict[int, dict[str, Any]]) -> None:
    value = {
        "schema": SCHEMA_VERSION,
        "prefix": plan.files.name,
        "num_shards": plan.shards,
        "complete": len(entries) == plan.shards,
        "shards": [entries[index] for index in sorted(entries)],
    }
    write_json(plan.manifest_path, value)


def _summarize(plan: ConversionPlan, dataset: PanopticDataset, entries: dict[int, dict[str, Any]]) -> ConversionSummary:
    summary = ConversionSummary(plan.files.name, plan.shards)
    objects: Counter[str] = Counter(dataset.ignored_objects)
    # A picture with several problems is left out once.
    pictures = Counter({p.picture: p.kind for p in reversed(dataset.problems)}.values())
    notes: Counter[str] = Counter()
    for entry in entries.values():
        for name in _COUNTS:
            setattr(summary, name, getattr(summary, name) + entry["counts"][name])
        summary.bytes += entry["bytes"]
        objects.update(entry["skipped_objects"])
        pictures.update(entry["skipped_pictures"])
        notes.update(entry["notes"])
    summary.skipped_objects = dict(sorted(objects.items()))
    summary.skipped_pictures = dict(sorted(pictures.items()))
    summary.notes = dict(sorted(notes.items()))
    return summary
