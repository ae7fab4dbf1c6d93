"""Checking a panoptic data set before training: every problem at once, and statistics."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from panoptic_cli import console
from panoptic_cli.categories import CategoryTable
from panoptic_cli.coco.dataset import Picture, Pictures
from panoptic_cli.coco.layout import SplitFiles
from panoptic_cli.coco.orientations import settle_exif
from panoptic_cli.coco.tables import conflicts
from panoptic_cli.errors import DataError
from panoptic_cli.inspection.annotations import open_annotations
from panoptic_cli.inspection.findings import Findings
from panoptic_cli.inspection.picture_checks import PictureCounts, PictureResults, inspect_picture
from panoptic_cli.inspection.statistics import spread_evenly
from panoptic_cli.processes import run_units
from panoptic_cli.records.sample import DataSample

_UNIT = 32  # pictures checked by a worker at a time


@dataclass
class SplitReport:
    """What a split contains, and what is wrong with it.

    Attributes:
        files: the files of the split.
        table: its categories; empty if the panoptic JSON cannot be read.
        findings: the problems.
        contents: counts of what its pictures contain.
        samples: pictures to draw, spread evenly over the split.
    """

    files: SplitFiles
    table: CategoryTable
    findings: Findings = field(default_factory=Findings)
    contents: PictureCounts = field(default_factory=PictureCounts)
    samples: list[Picture] = field(default_factory=list)

    @property
    def counts(self) -> Counter[str]:
        """The numbers of "pictures", "segments", "things", "stuff", "crowds" and "objects"."""
        return self.contents.counts

    @property
    def pixels(self) -> Counter[int]:
        """The number of pixels by category id; 0 is unlabelled."""
        return self.contents.pixels

    @property
    def name(self) -> str:
        """The name of the split."""
        return self.files.name

    @property
    def void_share(self) -> float:
        """Share of the pixels that no segment covers, 0..1."""
        return self.pixels[0] / (self.pixels.total() or 1)

    @property
    def crowd_share(self) -> float:
        """Share of the pixels that belong to crowds, 0..1."""
        return self.counts["crowd pixels"] / (self.pixels.total() or 1)

    def shares(self) -> list[tuple[str, int, int, float]]:
        """Returns (category name, id, segments, share of all pixels), largest share first."""
        total = self.pixels.total() or 1
        names = {0: "(unlabelled)"} | {c.id: c.name for c in self.table.categories}
        rows = [(names[i], i, self.contents.segments[i], self.pixels[i] / total) for i in names]
        return sorted(rows, key=lambda row: (-row[3], row[1]))

    def sample(self) -> DataSample:
        """Returns what decides whether a configuration fits."""
        contents = self.contents
        return DataSample(contents.objects.at(1.0), contents.separate.at(1.0), contents.stuff_areas.values())

    def to_dict(self) -> dict[str, Any]:
        """Returns the report as --json prints it."""
        return {
            **{key: self.counts[key] for key in ("pictures", "segments", "things", "stuff", "crowds", "objects")},
            "void_share": self.void_share,
            "crowd_share": self.crowd_share,
            "width": self.contents.widths.to_dict(),
            "height": self.contents.heights.to_dict(),
            "objects_per_picture": self.contents.objects.to_dict(),
            "errors": self.findings.errors,
            "warnings": self.findings.count("warning"),
            "problems": self.findings.to_list(),
            "categories": [
                {
                    "id": identifier,
                    "name": name,
                    "isthing": int(self.table.by_id[identifier].isthing),
                    "pictures": self.contents.pictures_with[identifier],
                    "segments": segments,
                    "pixels": self.pixels[identifier],
                    "pixel_share": share,
                }
                for name, identifier, segments, share in self.shares()
                if identifier
            ],
        }


def inspect_split(files: SplitFiles, workers: int, samples: int = 0) -> SplitReport:
    """Checks a split: its JSON files, every picture, every mask and every object annotation.

    Args:
        files: the files of the split.
        workers: number of processes.
        samples: number of pictures to choose for drawing.

    Returns:
        Counts and problems. A problem is never an exception.
    """
    findings = Findings()
    with open_annotations(files, findings) as annotations:
        if isinstance(annotations.sound, Pictures):
            files = settle_exif(files, annotations.sound)
        report = SplitReport(files, annotations.table, findings)
        for place in spread_evenly(range(len(annotations.sound)), samples):
            with contextlib.suppress(DataError):  # reported when all pictures are read
                report.samples.append(annotations.sound[place])
        work = partial(_inspect_pictures, files, annotations.table)
        total = len(annotations.sound) + len(annotations.broken)
        units = _units(annotations.sound, annotations.broken)
        found: dict[int, PictureResults] = {}
        with (
            console.progress(f"Checking {files.name}", total) as advance,
            contextlib.closing(run_units(work, units, min(workers, -(-total // _UNIT)), advance)) as outcomes,
        ):
            for order, outcome in outcomes:
                report.contents.update(outcome.contents)
                found[order] = outcome
    astray = Findings()
    for _, part in sorted(found.items()):
        findings.update(part.findings.by_kind.values())
        astray.update(part.astray.by_kind.values())
    if astray.errors > max(1, report.counts["objects"] / 2):
        findings.update(astray.by_kind.values())
    _add_repeated(report)
    for category in report.table.categories:
        if not report.contents.segments[category.id] and total:
            findings.add("category without any segment", f"{category.name} (id {category.id})", "warning")
    return report


def add_conflicting_categories(reports: list[SplitReport]) -> None:
    """Reports for each split where its categories contradict those of the first."""
    for report in reports[1:]:
        for message in conflicts(report.table, reports[0].table):
            report.findings.add("category differs between splits", f"{message} in {reports[0].name}")


def add_shared_pictures(reports: list[SplitReport]) -> None:
    """Reports for each split which pictures it shares with the splits before it."""
    for place, report in enumerate(reports):
        for earlier in reports[:place]:
            contents = {digest: name for name, digest in earlier.contents.digests.items()}
            for name, digest in sorted(report.contents.digests.items()):
                same = contents.get(digest)
                if same is not None:
                    shown = name if same == name else f"{name} is {same} there"
                    report.findings.add(f"picture also in {earlier.name}", shown, "warning")
                elif name in earlier.contents.digests:
                    kind = f"file name also in {earlier.name}, with other content"
                    report.findings.add(kind, name, "warning")


def _units(*parts: Sequence[Picture]) -> Iterator[tuple[int, Sequence[Picture]]]:
    """Yields numbered units of work."""
    slices = (part[start : start + _UNIT] for part in parts for start in range(0, len(part), _UNIT))
    yield from enumerate(slices)


def _inspect_pictures(
    files: SplitFiles, table: CategoryTable, unit: tuple[int, Sequence[Picture]], advance: Callable[[int], None]
) -> tuple[int, PictureResults]:
    order, pictures = unit
    result = PictureResults()
    for place in range(len(pictures)):
        try:
            picture = pictures[place]
        except DataError as error:  # a field that is not used may still be undecodable
            result.findings.add("annotation file unreadable", error.message)
        else:
            inspect_picture(files, table, picture, result)
        advance(1)
    return order, result


def _add_repeated(report: SplitReport) -> None:
    """Reports files that several entries name, and files with the same content."""
    for name, count in sorted(report.contents.names.items()):
        if count > 1 and name:
            message = f"{name} has {count} entries in images"
            report.findings.add("picture used under several ids", message, "warning")
    first: dict[bytes, str] = {}
    for name, digest in sorted(report.contents.digests.items()):
        if first.setdefault(digest, name) != name:
            report.findings.add("picture twice in the split", f"{name} is {first[digest]}", "warning")
