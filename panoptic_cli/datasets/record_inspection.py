"""Checking record files: checksums, keys, label pictures, and counts of what they hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from panoptic_cli import console
from panoptic_cli.datasets import masks, records
from panoptic_cli.datasets.findings import Findings
from panoptic_cli.datasets.tfrecord import read_records
from panoptic_cli.datasets.workers import run_units
from panoptic_cli.errors import DataError

_REQUIRED = (
    records.IMAGE_ENCODED,
    records.IMAGE_SOURCE_ID,
    records.IMAGE_HEIGHT,
    records.IMAGE_WIDTH,
    records.CATEGORY_MASK,
    records.INSTANCE_MASK,
)
_OBJECT_LISTS = (
    records.OBJECT_XMIN,
    records.OBJECT_XMAX,
    records.OBJECT_YMIN,
    records.OBJECT_YMAX,
    records.OBJECT_LABEL,
    records.OBJECT_IS_CROWD,
    records.OBJECT_AREA,
    records.OBJECT_MASK,
)
_LABEL_PICTURES = (records.SEMANTIC_MASK, records.CATEGORY_MASK, records.INSTANCE_MASK, records.SEGMENT_MASK)


@dataclass
class RecordReport:
    """What record files hold.

    Attributes:
        findings: the problems.
        counts: "files", "records", "objects", "crowds", "segments", "bytes".
        objects: number of objects by category id.
    """

    findings: Findings = field(default_factory=Findings)
    counts: Counter[str] = field(default_factory=Counter)
    objects: Counter[int] = field(default_factory=Counter)


def inspect_records(paths: list[Path], workers: int) -> RecordReport:
    """Checks record files: every checksum, every example's keys and label pictures.

    Args:
        paths: the files, in the order in which problems are reported.
        workers: processes.
    """
    report = RecordReport()
    outcomes: dict[int, tuple[RecordReport, list[str]]] = {}
    with console.progress("Checking records", None, "records") as advance:
        for order, part, ids in run_units(_inspect_file, list(enumerate(paths)), min(workers, len(paths)), advance):
            outcomes[order] = (part, ids)
    seen: dict[str, str] = {}
    for order in sorted(outcomes):
        part, ids = outcomes[order]
        report.findings.update(part.findings.by_kind.values())
        report.counts.update(part.counts)
        report.objects.update(part.objects)
        for identifier in ids:
            if identifier in seen:
                message = f"image {identifier} is in {seen[identifier]} and {paths[order]}"
                report.findings.add("picture in several records", message, "warning")
            seen.setdefault(identifier, str(paths[order]))
    return report


def _inspect_file(unit: tuple[int, Path], advance: Callable[[int], None]) -> tuple[int, RecordReport, list[str]]:
    order, path = unit
    report = RecordReport()
    report.counts.update(files=1, bytes=path.stat().st_size)
    ids: list[str] = []
    try:
        for index, record in enumerate(read_records(path)):
            report.counts["records"] += 1
            where = f"{path}, record {index}"
            try:
                features = records.decode_example(record)
            except ValueError as error:
                report.findings.add("unreadable record", f"{where}: {error}")
                continue
            for kind, message in _problems(features):
                report.findings.add(kind, f"{where}: {message}")
            labels = features.get(records.OBJECT_LABEL, [])
            report.counts["objects"] += len(labels)
            report.objects.update(int(label) for label in labels)
            report.counts["crowds"] += sum(int(flag) for flag in features.get(records.OBJECT_IS_CROWD, []))
            report.counts["segments"] += len(features.get(records.SEGMENT_ID, []))
            ids += [bytes(value).decode(errors="replace") for value in features.get(records.IMAGE_SOURCE_ID, [])]
            advance(1)
    except DataError as error:  # framing is lost: nothing behind it can be read
        report.findings.add("damaged record file", error.message)
    return order, report, ids


def _problems(features: dict[str, list[bytes] | np.ndarray]) -> Iterator[tuple[str, str]]:
    missing = [key for key in _REQUIRED if len(features.get(key, [])) == 0]
    if missing:
        yield "missing feature", f"no {', '.join(missing)}"
        return
    lengths = {len(features.get(key, [])) for key in _OBJECT_LISTS}
    if len(lengths) > 1:
        yield "object lists of different lengths", ", ".join(str(n) for n in sorted(lengths))
    size = int(features[records.IMAGE_HEIGHT][0]), int(features[records.IMAGE_WIDTH][0])
    pictures = [(key, value) for key in _LABEL_PICTURES for value in features.get(key, [])]
    pictures += [(records.OBJECT_MASK, value) for value in features.get(records.OBJECT_MASK, [])]
    for key, value in pictures:
        try:
            labels = masks.decode_png(bytes(value))
        except ValueError as error:
            yield "unreadable label picture", f"{key}: {error}"
            continue
        if labels.shape != size:
            yield "label picture of another size", f"{key} is {labels.shape}, the picture {size}"


def find_records(data: str) -> list[Path]:
    """Finds the record files that a folder holds, or that a pattern (several with commas) or a path names.

    Raises:
        DataError: there are none.
    """
    import glob

    folder = Path(data)
    if folder.is_dir():
        found = sorted(path for path in folder.iterdir() if ".tfrecord" in path.name and path.is_file())
    else:
        found = [
            Path(name)
            for pattern in data.split(",")
            for name in sorted(glob.glob(pattern.strip()))
            if Path(name).is_file() and not name.endswith(".json")
        ]
    if not found:
        raise DataError(
            f"{data} is neither a data set nor names any record file.",
            "Give a folder in COCO's layout ('panoptic download' gets COCO), or a pattern in quotes: "
            "'data/coco/tfrecords/val-*'.",
        )
    return found
