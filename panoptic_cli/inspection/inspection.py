"""An inspection of one source: the splits of a data set, or record files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from panoptic_cli import storage
from panoptic_cli.categories import CategoryTable
from panoptic_cli.coco.layout import OwnFiles, SplitFiles, find_splits
from panoptic_cli.errors import UsageError, listed
from panoptic_cli.images.orientation import Exif
from panoptic_cli.inspection import samples
from panoptic_cli.inspection.dataset import SplitReport, add_conflicting_categories, add_shared_pictures, inspect_split
from panoptic_cli.inspection.findings import Findings
from panoptic_cli.inspection.record_files import RecordReport, compare_with_manifests, inspect_records
from panoptic_cli.interrupts import terminate_as_interrupt
from panoptic_cli.records.files import find_record_files
from panoptic_cli.records.sample import DataSample, sample_records

_HINT = (
    "Give a folder in COCO's layout ('panoptic download' gets COCO), record files ('panoptic make-tfrecords' makes "
    "them), or your own files with --panoptic-annotations and --image-dir."
)


@dataclass(frozen=True)
class Source:
    """What to inspect.

    Attributes:
        paths: what the user named.
        splits: the splits of a data set; empty for records.
        records: the record files; empty for a data set.
    """

    paths: tuple[str, ...]
    splits: tuple[SplitFiles, ...] = ()
    records: tuple[Path, ...] = ()

    @property
    def title(self) -> str:
        """The paths, short enough for a table's title."""
        return listed(self.paths, 1)


@dataclass(frozen=True)
class Inspection:
    """What an inspection found: reports of splits, or one report of records.

    Attributes:
        source: what was inspected.
        splits: a report for each split of a data set.
        records: the report of records, None for a data set.
    """

    source: Source
    splits: tuple[SplitReport, ...] = ()
    records: RecordReport | None = None

    @property
    def samples(self) -> list[tuple[Findings, DataSample]]:
        """The findings of each report, and what decides whether a configuration fits its data."""
        if self.records is None:
            return [(report.findings, report.sample()) for report in self.splits]
        paths = [str(path) for path in self.source.records]
        sample = sample_records(paths, self.records.table or CategoryTable(()))
        return [(self.records.findings, sample)] if sample else []

    @property
    def errors(self) -> int:
        """The number of problems that are errors."""
        if self.records is not None:
            return self.records.findings.errors
        return sum(report.findings.errors for report in self.splits)

    def to_dict(self) -> dict[str, Any]:
        """Returns the inspection as --json prints it."""
        data = ",".join(self.source.paths)
        if self.records is not None:
            return {"data": data, **self.records.to_dict()}
        return {
            "data": data,
            "errors": self.errors,
            "warnings": sum(report.findings.count("warning") for report in self.splits),
            "splits": {report.name: report.to_dict() for report in self.splits},
        }

    def draw(self, count: int, output_dir: Path) -> list[Path]:
        """Draws samples with their ground truth and returns the files.

        Args:
            count: number of samples of records. Those of splits were chosen by `inspect_source`.
            output_dir: folder of the drawings; it is created if necessary.
        """
        if self.records is not None:
            table = self.records.table or CategoryTable(())  # without names, ids are drawn
            return samples.draw_samples(samples.record_samples(self.source.records, count), table, output_dir)
        return [
            path
            for report in self.splits
            for path in samples.draw_samples(
                samples.dataset_samples(report.files, report.table, report.samples), report.table, output_dir
            )
        ]


def find_source(data: Sequence[str], own: OwnFiles, default: Path, exif: Exif | None = None) -> Source:
    """Finds out what to inspect.

    Args:
        data: a data set's folder, or record files: paths, folders and patterns.
        own: files of a data set in another layout; they replace `data`.
        default: the data set's folder if nothing is given.
        exif: see `SplitFiles`.

    Raises:
        UsageError: several data sets, or remote files.
        DataError: there are no such files.
    """
    if own.given:
        return Source((str(own.panoptic_annotations),), (replace(own.split(), exif=exif),))
    folders = [path for path in data or [str(default)] if not data or (Path(path) / "annotations").is_dir()]
    if len(data) > 1 and folders:
        raise UsageError(f"{folders[0]} is a data set, but several paths are given.", "Inspect one data set at a time.")
    if folders:
        splits = find_splits(Path(folders[0]))
        return Source(tuple(folders), tuple(replace(files, exif=exif) for files in splits))
    remote = [path for path in data if storage.is_remote(storage.normalize(path))]
    if remote:
        raise UsageError(f"{remote[0]} is not on this machine.", "Copy the files here to inspect them.")
    found = find_record_files(data, what="data set or records", hint=_HINT)
    return Source(tuple(data), records=tuple(Path(path) for path in found))


def inspect_source(source: Source, workers: int, samples: int = 0, categories: Path | None = None) -> Inspection:
    """Checks and counts everything in a source.

    Args:
        source: what to inspect.
        workers: number of processes.
        samples: number of pictures of each split to choose for drawing.
        categories: the category table of records; None for categories.json beside them, if it exists.
    """
    with terminate_as_interrupt():  # so that temporary files are removed
        if source.records:
            report = inspect_records(source.records, workers, categories)
            compare_with_manifests(report, source.records)
            return Inspection(source, records=report)
        reports = [inspect_split(files, workers, samples) for files in source.splits]
        add_conflicting_categories(reports)
        add_shared_pictures(reports)
        return Inspection(source, tuple(reports))
