"""Conversion of a panoptic data set to sharded TFRecords: parallel, repeatable, safe to interrupt.

Picture i of the list sorted by id goes to shard i % shards, so the shards do not depend on the number of workers. A
shard is one unit of work. It is written under a temporary name, renamed when it is complete, and then entered in the
manifest `{prefix}.manifest.json`. A later run keeps the shards whose manifest entry matches inputs and options and
whose checksum is right. The check takes a hundredth of the time of making them.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from panoptic_cli import console
from panoptic_cli.categories import MAX_CATEGORY_ID
from panoptic_cli.coco.dataset import PanopticDataset, Pictures, read_dataset, require_sound
from panoptic_cli.coco.orientations import settle_exif
from panoptic_cli.coco.tables import conflicts
from panoptic_cli.errors import DataError, counted, listed
from panoptic_cli.files import atomic_path, remove
from panoptic_cli.images.encoded import PictureError
from panoptic_cli.interrupts import terminate_as_interrupt
from panoptic_cli.locks import folder_lock
from panoptic_cli.processes import preload, run_units
from panoptic_cli.records.encoding import ASTRAY, NOTE, SKIPPED, PictureEncoder
from panoptic_cli.records.manifest import (
    COUNTS,
    Fingerprint,
    clear_stale,
    common_digest,
    remove_partial,
    write_categories,
    write_manifest,
)
from panoptic_cli.records.plans import ConversionPlan
from panoptic_cli.records.regrouping import Regrouping
from panoptic_cli.records.tfrecord import TFRecordWriter, file_crc32c

_PROGRESS_EVERY = 8  # pictures
_SAMPLE = 10  # pictures


@dataclass
class ConversionSummary:
    """What a conversion did. All counts include the shards that were kept.

    Attributes:
        prefix: prefix of the shards.
        shards: number of shards.
        kept_shards: number of shards that were complete before.
        pictures: number of pictures in the records.
        objects: number of object annotations, crowds included.
        crowds: number of crowds.
        segments: number of panoptic segments.
        bytes: size of the shards.
        skipped_objects: number of skipped objects by reason.
        skipped_pictures: number of skipped pictures by reason.
        notes: changes to pictures or objects that the user should know about, with their numbers.
        assumed: what was assumed about the annotation files, with numbers.
        seconds: wall time.
        images_per_second: pictures converted in this run, per second of wall time.
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
    assumed: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    images_per_second: float = 0.0


@dataclass(frozen=True)
class _Shard:
    """One unit of work."""

    index: int
    path: Path
    pictures: Pictures
    common: str  # digest of everything that all shards depend on


def convert(
    plan: ConversionPlan,
    dataset: PanopticDataset,
    workers: int,
    run: Callable[..., Generator[Any]] = run_units,
    together: frozenset[str] = frozenset(),
) -> ConversionSummary:
    """Converts a split.

    Args:
        plan: what to convert, and to what.
        dataset: the split, from read_dataset(plan.files).
        workers: number of processes; with 1, this process does the work.
        run: hands the shards to workers, like `processes.run_units`.
        together: names of the splits that are converted in the same run; their earlier records do not matter.

    Returns:
        The counts of all shards.

    Raises:
        DataError: see `check_dataset`; or a picture cannot be converted (unless on_bad_data is "skip"), or output_dir
            contains shards of this prefix that the manifest does not list, or records with contradicting categories.
        RunError: another conversion is writing to output_dir.
    """
    regrouping = check_dataset(plan, dataset)
    try:
        plan.output_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"The output folder {plan.output_dir} cannot be created: {error.strerror}.",
            "Give another --output-dir.",
        ) from None
    with folder_lock(plan.output_dir, "panoptic make-tfrecords", "give another --output-dir"):
        return _convert(plan, dataset, regrouping, workers, run, together)


def _convert(
    plan: ConversionPlan,
    dataset: PanopticDataset,
    regrouping: Regrouping,
    workers: int,
    run: Callable[..., Generator[Any]],
    together: frozenset[str],
) -> ConversionSummary:
    """Converts the missing shards; the caller has locked the folder."""
    begun = time.monotonic()
    plan = replace(plan, files=settle_exif(plan.files, dataset.pictures))
    common = common_digest(plan, dataset, regrouping)
    done = clear_stale(plan)
    shards = [
        _Shard(index, plan.output_dir / plan.shard_name(index), dataset.pictures[index :: plan.shards], common)
        for index in range(plan.shards)
    ]
    entries = _valid_shards(plan, shards, done, workers)
    kept = sum(entry["counts"]["pictures"] for entry in entries.values())
    todo = [shard for shard in shards if shard.index not in entries]
    for shard in todo:
        remove(shard.path)  # if this run is interrupted, old and new shards must not be side by side
    write_categories(plan, regrouping.table, together)
    write_manifest(plan, regrouping.table, entries)
    work = partial(_convert_shard, plan, regrouping)
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
                write_manifest(plan, regrouping.table, entries)
    except BaseException as error:
        remove_partial(plan)  # left by a worker that was killed
        if isinstance(error, KeyboardInterrupt):
            console.warn(
                f"{len(entries):,} of {counted(plan.shards, 'shards')} of {plan.files.name} are complete; "
                "the same command makes the others"
            )
        raise
    summary = _summarize(plan, dataset, entries)
    summary.kept_shards = plan.shards - len(todo)
    summary.seconds = time.monotonic() - begun
    summary.images_per_second = (summary.pictures - kept) / max(summary.seconds, 1e-9)
    return summary


def convert_all(
    plans: Sequence[ConversionPlan], workers: int, run: Callable[..., Generator[Any]] = run_units
) -> list[ConversionSummary]:
    """Reads all splits and converts one after the other; see `convert`.

    Raises:
        DataError: see `convert`; or the categories of two splits contradict each other.
    """
    if workers > 1 and run is run_units:
        preload(__name__)  # the processes start while the annotations are read
    datasets = [_read(plan) for plan in plans]
    for plan, dataset in zip(plans, datasets, strict=True):
        if plan.category_map is None and (found := conflicts(dataset.table, datasets[0].table)):
            raise DataError(
                f"The categories of {plan.files.name} contradict those of {plans[0].files.name}: {listed(found, 3)}.",
                "Give both splits the same ids, names and isthing.",
            )
        require_sound(dataset, skip_bad_pictures=plan.on_bad_data == "skip")
    names = frozenset(plan.files.name for plan in plans)
    return [convert(plan, dataset, workers, run, names) for plan, dataset in zip(plans, datasets, strict=True)]


def count_convertible(plan: ConversionPlan) -> int:
    """Returns the number of pictures that a plan converts.

    Raises:
        DataError: see `check_dataset`.
    """
    dataset = _read(plan)
    check_dataset(plan, dataset)
    return len(dataset.pictures)


def _read(plan: ConversionPlan) -> PanopticDataset:
    dataset = read_dataset(plan.files, keep_unannotated=plan.on_bad_data == "void")
    dataset = dataset if plan.share is None else plan.share.of(dataset)
    for note in dataset.notes:
        console.warn(f"{plan.files.name}: {note}.")
    return dataset


def check_dataset(plan: ConversionPlan, dataset: PanopticDataset) -> Regrouping:
    """Checks that a data set can be converted, and reads the category map.

    Raises:
        ConfigError: the category map does not fit the categories.
        DataError: a category id does not fit 16-bit label pictures, or the annotations have problems other than those
            that the plan skips.
    """
    regrouping = Regrouping.planned(plan.category_map, plan.merge_stuff, dataset.table)
    if regrouping.table.max_id > MAX_CATEGORY_ID:
        raise DataError(
            f"{dataset.files.panoptic_annotations} has the category id {regrouping.table.max_id}; "
            f"records allow ids up to {MAX_CATEGORY_ID}.",
            "Renumber the categories, for example with --category-map.",
        )
    require_sound(dataset, skip_bad_pictures=plan.on_bad_data == "skip")
    _require_objects_on_segments(plan, dataset, regrouping)
    return regrouping


def _require_objects_on_segments(plan: ConversionPlan, dataset: PanopticDataset, regrouping: Regrouping) -> None:
    """Checks in a few pictures that objects and segments are of the same pictures and categories."""
    if plan.files.object_annotations is None:
        return
    encoder = PictureEncoder(plan.files, regrouping)
    counts: Counter[str] = Counter()
    step = -(-len(dataset.pictures) // _SAMPLE)
    for picture in dataset.pictures[::step]:
        with contextlib.suppress(PictureError):  # the conversion reports it
            counts.update(encoder.encode(picture)[1])
    if counts[ASTRAY] > max(1, counts["objects"] / 2):
        raise DataError(
            f"{counts[ASTRAY]} of {counts['objects']} objects in a sample of {plan.files.object_annotations} are "
            f"not on segments of their category in the masks of {plan.files.panoptic_masks}.",
            "Ids or coordinates differ: give the instances JSON of these pictures, or none.",
        )


def _convert_shard(
    plan: ConversionPlan, regrouping: Regrouping, shard: _Shard, advance: Callable[[int], None]
) -> tuple[int, dict[str, Any]]:
    """Writes one shard and returns its index and its manifest entry."""
    encoder = PictureEncoder(plan.files, regrouping)
    counts: Counter[str] = Counter()
    skipped_pictures: Counter[str] = Counter()
    fingerprint = Fingerprint(plan, shard.common)
    pending = 0
    with atomic_path(shard.path) as partial_path, TFRecordWriter(partial_path) as writer:
        for picture in shard.pictures:
            fingerprint.add(picture.file_name, picture.mask_name)
            try:
                record, found = encoder.encode(picture)
            except PictureError as error:
                if plan.on_bad_data != "skip":
                    raise DataError(
                        f"Picture {picture.id} ({picture.file_name}) cannot be converted: {error}.",
                        "Repair it ('panoptic inspect' lists all such pictures), or use --on-bad-data skip.",
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
        "counts": {"pictures": writer.records, **{name: counts[name] for name in COUNTS[1:]}},
        "skipped_objects": _beginning_with(SKIPPED, counts),
        "skipped_pictures": dict(sorted(skipped_pictures.items())),
        "notes": _beginning_with(NOTE, counts),
    }


def _beginning_with(prefix: str, counts: Counter[str]) -> dict[str, int]:
    return {key.removeprefix(prefix): n for key, n in sorted(counts.items()) if key.startswith(prefix)}


def _valid_shards(
    plan: ConversionPlan, shards: list[_Shard], done: dict[str, dict[str, Any]], workers: int
) -> dict[int, dict[str, Any]]:
    """Returns the manifest's entries of the shards that are still valid, by index."""
    units = [(shard, done[shard.path.name]) for shard in shards if shard.path.name in done]
    if not units:
        return {}
    with (
        console.progress(f"Checking the shards of {plan.files.name}", len(units), "shards") as advance,
        contextlib.closing(run_units(partial(_is_valid, plan), units, min(workers, len(units)), advance)) as outcomes,
    ):
        valid = {index for index, is_valid in outcomes if is_valid}
    return {shard.index: entry for shard, entry in units if shard.index in valid}


def _is_valid(
    plan: ConversionPlan, unit: tuple[_Shard, dict[str, Any]], advance: Callable[[int], None]
) -> tuple[int, bool]:
    """Whether a shard's inputs and options are unchanged and its bytes are those that were written."""
    shard, entry = unit
    fingerprint = Fingerprint(plan, shard.common)
    for place in range(len(shard.pictures)):
        fingerprint.add(*shard.pictures.names(place))
    same = entry["fingerprint"] == fingerprint.hexdigest()
    valid = same and shard.path.is_file() and shard.path.stat().st_size == entry["bytes"]
    valid = valid and file_crc32c(shard.path) == entry["crc32c"]
    advance(1)
    return shard.index, valid


def _summarize(plan: ConversionPlan, dataset: PanopticDataset, entries: dict[int, dict[str, Any]]) -> ConversionSummary:
    summary = ConversionSummary(plan.files.name, plan.shards)
    summary.assumed = {f"{note.kind}: {note.detail}": note.count for note in dataset.notes}
    objects: Counter[str] = Counter(dataset.ignored_objects)
    # A picture with several problems is counted once.
    pictures = Counter({p.picture: p.kind for p in reversed(dataset.problems)}.values())
    notes: Counter[str] = Counter()
    for entry in entries.values():
        for name in COUNTS:
            setattr(summary, name, getattr(summary, name) + entry["counts"][name])
        summary.bytes += entry["bytes"]
        objects.update(entry["skipped_objects"])
        pictures.update(entry["skipped_pictures"])
        notes.update(entry["notes"])
    summary.skipped_objects = dict(sorted(objects.items()))
    summary.skipped_pictures = dict(sorted(pictures.items()))
    summary.notes = dict(sorted(notes.items()))
    return summary
