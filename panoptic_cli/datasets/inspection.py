"""Checking a panoptic data set before hours are lost on it: every problem at once, and statistics."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from panoptic_cli import console
from panoptic_cli.categories import CategoryTable
from panoptic_cli.datasets import masks
from panoptic_cli.datasets.coco import Picture, read_dataset
from panoptic_cli.datasets.findings import Finding, Findings
from panoptic_cli.datasets.layout import SplitFiles
from panoptic_cli.datasets.workers import run_units

_UNIT = 32  # pictures checked by a worker at a time
_BOX_TOLERANCE = 1.0  # pixels; tools differ in whether a box ends at or behind its last pixel


@dataclass
class SplitReport:
    """What one split consists of and what is wrong with it.

    Attributes:
        name: of the split.
        table: its categories.
        findings: the problems.
        counts: "pictures", "segments", "things", "stuff", "crowds", "objects".
        pixels: by category id; 0 is unlabelled.
        segments: number of segments by category id.
        file_names: of the pictures.
    """

    name: str
    table: CategoryTable
    findings: Findings = field(default_factory=Findings)
    counts: Counter[str] = field(default_factory=Counter)
    pixels: Counter[int] = field(default_factory=Counter)
    segments: Counter[int] = field(default_factory=Counter)
    file_names: frozenset[str] = frozenset()

    def shares(self) -> list[tuple[str, int, int, float]]:
        """Returns (category name, id, segments, share of all pixels), largest share first."""
        total = sum(self.pixels.values()) or 1
        names = {0: "(unlabelled)"} | {c.id: c.name for c in self.table.categories}
        rows = [(names[i], i, self.segments[i], self.pixels[i] / total) for i in names]
        return sorted(rows, key=lambda row: (-row[3], row[1]))


@dataclass
class _Outcome:
    """What a worker found in its pictures."""

    order: int
    findings: list[Finding]
    pixels: Counter[int]


def inspect_split(files: SplitFiles, workers: int) -> SplitReport:
    """Checks a split: its JSON files, every picture, every mask and every object annotation.

    Args:
        files: the split.
        workers: processes.

    Raises:
        DataError: a JSON file or its category table is not readable at all.
    """
    dataset = read_dataset(files)
    report = SplitReport(files.name, dataset.table)
    for problem in dataset.problems:
        report.findings.add(problem.kind, problem.message)
    for reason, count in dataset.ignored_objects.items():
        where = str(files.object_annotations)
        report.findings.update([Finding(f"object of a {reason}", "warning", count, [where])])
    pictures = dataset.pictures
    report.file_names = frozenset(picture.file_name for picture in pictures)
    _count(report, pictures)
    units = [(start, pictures[start : start + _UNIT]) for start in range(0, len(pictures), _UNIT)]
    work = partial(_inspect_pictures, files, dataset.table)
    with console.progress(f"Checking {files.name}", len(pictures)) as advance:
        outcomes = list(run_units(work, units, min(workers, len(units)), advance))
    for outcome in sorted(outcomes, key=lambda outcome: outcome.order):
        report.findings.update(outcome.findings)
        report.pixels.update(outcome.pixels)
    return report


def add_shared_pictures(reports: list[SplitReport]) -> None:
    """Adds to the last of several splits what it shares with the ones before it."""
    for place, report in enumerate(reports):
        for earlier in reports[:place]:
            for name in sorted(report.file_names & earlier.file_names):
                report.findings.add(f"picture also in {earlier.name}", name, "warning")


def _count(report: SplitReport, pictures: tuple[Picture, ...]) -> None:
    by_id = report.table.by_id
    report.counts["pictures"] = len(pictures)
    for picture in pictures:
        report.counts["objects"] += len(picture.objects or ())
        for segment in picture.segments:
            isthing = by_id[segment.category_id].isthing
            report.counts["segments"] += 1
            report.counts["things" if isthing else "stuff"] += 1
            report.counts["crowds"] += segment.is_crowd
            report.segments[segment.category_id] += 1


def _inspect_pictures(
    files: SplitFiles,
    table: CategoryTable,
    unit: tuple[int, tuple[Picture, ...]],
    advance: Callable[[int], None],
) -> _Outcome:
    order, pictures = unit
    findings = Findings()
    pixels: Counter[int] = Counter()
    for picture in pictures:
        where = f"image {picture.id} ({picture.file_name})"
        _check_picture(files.image_dir / picture.file_name, picture, where, findings)
        _check_mask(files.panoptic_masks / picture.mask_name, picture, where, table, findings, pixels)
        _check_objects(picture, where, findings)
        advance(1)
    return _Outcome(order, list(findings.by_kind.values()), pixels)


def _check_picture(path: Path, picture: Picture, where: str, findings: Findings) -> None:
    if not path.is_file():
        findings.add("picture missing", f"{where}: {path} does not exist")
        return
    try:
        with Image.open(io.BytesIO(path.read_bytes())) as opened:
            opened.load()
            size = opened.size
            oriented = opened.getexif().get(0x0112, 1) not in (0, 1)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        findings.add("picture unreadable", f"{where}: {path} cannot be decoded ({error})")
        return
    if size != (picture.width, picture.height):
        sizes = f"is {size[0]}x{size[1]} pixels, the JSON says {picture.width}x{picture.height}"
        findings.add("picture size differs from the JSON", f"{where}: {path} {sizes}")
    if oriented:
        findings.add("EXIF orientation", f"{where}: viewers turn it, training takes the pixels as stored", "warning")


def _check_mask(
    path: Path,
    picture: Picture,
    where: str,
    table: CategoryTable,
    findings: Findings,
    pixels: Counter[int],
) -> None:
    if not path.is_file():
        findings.add("mask missing", f"{where}: {path} does not exist")
        return
    try:
        ids = masks.decode_panoptic_png(path.read_bytes())
    except (ValueError, OSError) as error:
        findings.add("mask unreadable", f"{where}: {path}: {error}")
        return
    if ids.shape != (picture.height, picture.width):
        sizes = f"is {ids.shape[1]}x{ids.shape[0]} pixels, the JSON says {picture.width}x{picture.height}"
        findings.add("mask size differs from the JSON", f"{where}: {path} {sizes}")
    places, strangers = masks.segment_places(ids, [segment.id for segment in picture.segments])
    for stranger in strangers:
        findings.add("mask id not in the JSON", f"{where}: {path} has pixels of id {stranger}")
    areas = np.bincount(places.ravel(), minlength=len(picture.segments) + 1)
    pixels[0] += int(areas[0])
    for place, segment in enumerate(picture.segments, start=1):
        here = f"{where}, segment {segment.id}"
        area = int(areas[place])
        pixels[segment.category_id] += area
        if segment.is_crowd and not table.by_id[segment.category_id].isthing:
            findings.add("crowd of stuff", f"{here}: iscrowd is 1 on stuff", "warning")
        if area == 0:
            findings.add("segment without pixels", f"{here}: {path} has no pixel of it")
            continue
        if segment.area is not None and segment.area != area:
            findings.add("area differs from the mask", f"{here}: {segment.area} in the JSON, {area} pixels")
        box = masks.box_of_mask(places == place)
        if box is not None and segment.bbox is not None and _apart(segment.bbox, box):
            shown = [round(v, 2) for v in segment.bbox]
            findings.add("box differs from the mask", f"{here}: {shown} in the JSON, {list(box)} in pixels", "warning")


def _check_objects(picture: Picture, where: str, findings: Findings) -> None:
    for annotation in picture.objects or ():
        here = f"{where}, annotation {annotation.id}"
        try:
            mask = masks.rasterize(annotation.segmentation, picture.height, picture.width)
        except ValueError as error:
            findings.add("malformed segmentation", f"{here}: {error}")
            continue
        if not mask.any():
            findings.add("empty object mask", f"{here}: its segmentation covers no pixel", "warning")
        if annotation.bbox is None:
            continue
        x, y, width, height = annotation.bbox
        if width <= 0 or height <= 0:
            findings.add("object box without area", f"{here}: {width} by {height}", "warning")
        elif x < 0 or y < 0 or x + width > picture.width or y + height > picture.height:
            findings.add("object box leaves the picture", f"{here}: {[x, y, width, height]}", "warning")


def _apart(first: tuple[float, ...], second: tuple[float, ...]) -> bool:
    """Whether two (x, y, width, height) boxes differ by more than the tolerance at any edge."""
    edges = [(b[0], b[1], b[0] + b[2], b[1] + b[3]) for b in (first, second)]
    return any(abs(a - b) > _BOX_TOLERANCE for a, b in zip(*edges, strict=True))
