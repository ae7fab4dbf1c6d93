"""Checking record files: checksums, features, pictures and masks; and counting what they contain."""

from __future__ import annotations

import contextlib
import glob
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from panoptic_cli import console
from panoptic_cli.categories import CategoryTable, read_categories
from panoptic_cli.coco.layout import CATEGORIES_FILE
from panoptic_cli.coco.problems import Notes
from panoptic_cli.coco.tables import note_oddities
from panoptic_cli.errors import DataError, one_line
from panoptic_cli.files import read_json
from panoptic_cli.inspection.findings import Finding, Findings
from panoptic_cli.inspection.record_checks import RecordCounts, check_record
from panoptic_cli.inspection.shared_checks import STUFF_IN_SEVERAL
from panoptic_cli.processes import run_units
from panoptic_cli.records import schema
from panoptic_cli.records.files import SHARD_NAME
from panoptic_cli.records.tfrecord import file_crc32c, read_records

_WARNINGS = frozenset(
    {
        "object box differs from its mask",
        "object area differs from its mask",
        "empty object mask",
        "area differs from the mask",
        STUFF_IN_SEVERAL,
    }
)
_PROGRESS_EVERY = 8  # records


@dataclass
class RecordReport:
    """What record files contain, and what is wrong with them.

    Attributes:
        findings: the problems.
        contents: counts of what the records contain.
        table: the categories beside the records, None without such a file.
        records_of: number of readable records by file; None if reading stopped at damage.
        files: number of files.
        bytes: size of the files.
        ids: image ids and file names in reading order.
    """

    findings: Findings = field(default_factory=Findings)
    contents: RecordCounts = field(default_factory=RecordCounts)
    table: CategoryTable | None = None
    records_of: dict[Path, int | None] = field(default_factory=dict)
    files: int = 0
    bytes: int = 0
    ids: list[tuple[str, str]] = field(default_factory=list)

    @property
    def counts(self) -> dict[str, int]:
        """The numbers of "files", "records", "objects", "crowds", "segments" and "bytes"."""
        contents = {key: self.contents.counts[key] for key in ("records", "objects", "crowds", "segments")}
        return {"files": self.files, **contents, "bytes": self.bytes}

    @property
    def void_share(self) -> float:
        """Share of the pixels that have no category, 0..1."""
        return self.contents.pixels[0] / (self.contents.pixels.total() or 1)

    def shares(self) -> list[tuple[str, int, int, float]]:
        """Returns (category name, id, objects, share of all pixels), largest share first."""
        names = {} if self.table is None else {c.id: c.name for c in self.table.categories}
        known = {*names, *self.contents.objects, *self.contents.pixels}
        total = self.contents.pixels.total() or 1
        rows = [
            (names.get(i, "" if i else "(unlabelled)"), i, self.contents.objects[i], self.contents.pixels[i] / total)
            for i in known
        ]
        return sorted(rows, key=lambda row: (-row[3], row[1]))

    def to_dict(self) -> dict[str, Any]:
        """Returns the report as --json prints it."""
        contents = self.contents
        return {
            "errors": self.findings.errors,
            "warnings": self.findings.count("warning"),
            **self.counts,
            "void_share": self.void_share,
            "width": contents.widths.to_dict(),
            "height": contents.heights.to_dict(),
            "objects_per_picture": contents.objects_per_picture.to_dict(),
            "problems": self.findings.to_list(),
            "categories": [
                {
                    "id": identifier,
                    "name": name,
                    "pictures": contents.pictures_with[identifier],
                    "objects": objects,
                    "pixels": contents.pixels[identifier],
                    "pixel_share": share,
                }
                for name, identifier, objects, share in self.shares()
                if identifier
            ],
        }


def inspect_records(paths: Sequence[Path], workers: int, categories: Path | None = None) -> RecordReport:
    """Checks record files: every checksum, every example's features, every picture and mask in them.

    Args:
        paths: the files, in the order in which to report problems.
        workers: number of processes.
        categories: file with the category table; None for categories.json beside the records, if it exists.
    """
    report = RecordReport()
    with (
        console.progress("Checking records", None, "records") as advance,
        contextlib.closing(run_units(_inspect_file, enumerate(paths), min(workers, len(paths)), advance)) as found,
    ):
        outcomes = dict(found)
    seen: dict[tuple[str, str], Path] = {}
    for order, part in sorted(outcomes.items()):
        report.findings.update(part.findings.by_kind.values())
        report.contents.update(part.contents)
        report.records_of.update(part.records_of)
        report.files += part.files
        report.bytes += part.bytes
        for identifier in part.ids:
            if identifier in seen:
                message = f"image {identifier[0]} is in {seen[identifier]} and {paths[order]}"
                report.findings.add("picture in several records", message, "warning")
            seen.setdefault(identifier, paths[order])
    beside = paths[0].parent / CATEGORIES_FILE
    if categories is not None or beside.is_file():
        _check_categories(report, categories or beside)
    return report


def _inspect_file(unit: tuple[int, Path], advance: Callable[[int], None]) -> tuple[int, RecordReport]:
    order, path = unit
    report = RecordReport()
    pending = index = 0
    try:
        report.files, report.bytes = 1, path.stat().st_size
        for index, record in enumerate(read_records(path), start=1):
            where = f"{path.name}, record {index - 1}"
            try:
                features = schema.decode_example(record)
            except ValueError as error:
                report.findings.add("unreadable record", f"{where}: {error}")
                continue
            ids = features.get(schema.IMAGE_SOURCE_ID, [])
            if isinstance(ids, list) and ids:
                identifier = ids[0].decode(errors="replace")
                where += f" (image {identifier:.40})"
                names = features.get(schema.IMAGE_FILENAME, [])  # splits may number their pictures alike
                name = names[0].decode(errors="replace") if isinstance(names, list) and names else ""
                report.ids.append((identifier, name))
            for kind, message in check_record(features, report.contents):
                report.findings.add(kind, f"{where}: {message}", "warning" if kind in _WARNINGS else "error")
            pending += 1
            if pending == _PROGRESS_EVERY:
                advance(pending)
                pending = 0
        report.records_of[path] = index
    except DataError as error:  # the framing is lost, so nothing after it can be read
        report.findings.add("damaged record file", error.message)
        report.records_of[path] = None
    except OSError as error:
        report.findings.add("damaged record file", f"{path} cannot be read: {error.strerror}")
        report.records_of[path] = None
    advance(pending)
    report.contents.counts["records"] += index
    return order, report


def _check_categories(report: RecordReport, file: Path) -> None:
    """Reads the categories and reports ids that they lack."""
    try:
        report.table = read_categories(file)
    except DataError as error:
        report.findings.add("categories unreadable", f"{file}: {one_line(error)}")
        return
    notes = Notes()
    note_oddities(report.table, notes)
    report.findings.update(Finding(note.kind, "warning", note.count, detail=note.detail) for note in notes.all())
    for identifier in sorted((report.contents.objects.keys() | report.contents.pixels.keys()) - {0}):
        if identifier not in report.table.by_id:
            message = f"category {identifier} of {report.contents.objects[identifier]:,} objects is not in {file}"
            report.findings.add("unknown category", message)


def compare_with_manifests(report: RecordReport, paths: Sequence[Path]) -> None:
    """Reports differences between record files and the manifests of their conversion.

    Count and CRC-32C of every file are compared. Without a manifest, as for records from other tools, only names are
    checked: name-00002-of-00008 says that there should be eight files.

    Args:
        report: report of `inspect_records`; receives the problems.
        paths: the files that were inspected.
    """
    shards: dict[tuple[Path, str], list[Path]] = defaultdict(list)
    for path in paths:
        match = SHARD_NAME.fullmatch(path.name)
        if match:
            shards[path.parent, match[1]].append(path)
    for (folder, prefix), found in sorted(shards.items()):
        manifest = folder / f"{prefix}.manifest.json"
        if manifest.is_file():
            _compare(report, manifest, found)
        else:
            _check_names(report.findings, found)


def _compare(report: RecordReport, manifest: Path, found: list[Path]) -> None:
    findings = report.findings
    try:
        value = read_json(manifest, "manifest")
        entries = {entry["name"]: entry for entry in value["shards"]}
        facts = {name: (entry["crc32c"], entry["counts"]["pictures"]) for name, entry in entries.items()}
    except (DataError, KeyError, TypeError) as error:
        findings.add("manifest unreadable", f"{manifest}: {one_line(error, 120)}", "warning")
        return
    if value.get("complete") is False:
        findings.add("conversion not finished", f"{manifest} says that shards are missing", "warning")
    for name in facts:
        if not (manifest.parent / str(name)).is_file():
            findings.add("shard missing", f"{name} is in {manifest.name} but does not exist")
    for path in found:
        count = report.records_of[path]
        if path.name not in facts:
            message = f"{path.name} is not in {manifest.name}"
            findings.add("shard of another conversion", message)
        elif count is not None:  # damage is reported already
            checksum, pictures = facts[path.name]
            if count != pictures:
                message = f"{path.name} has {count} records, {manifest.name} says {pictures}"
                findings.add("shard differs from the manifest", message)
            elif file_crc32c(path) != checksum:
                findings.add("shard differs from the manifest", f"{path.name} has a different CRC-32C")


def _check_names(findings: Findings, found: list[Path]) -> None:
    counts: dict[str, list[Path]] = defaultdict(list)
    for path in found:
        match = SHARD_NAME.fullmatch(path.name)
        assert match is not None
        counts[match[3]].append(path)
    for total, paths in counts.items():
        match = SHARD_NAME.fullmatch(paths[0].name)
        assert match is not None
        pattern = f"{glob.escape(match[1])}-?????-of-{total}{match[4] or ''}"
        here = sum(1 for _ in paths[0].parent.glob(pattern))
        if here < int(total):
            message = f"{paths[0].parent / match[1]}-*: {here} of {int(total)} files exist"
            findings.add("shards of the set are missing", message, "warning")
