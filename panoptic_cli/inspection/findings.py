"""What a check of data found: problems of the same kind counted together, with the first few of each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

Severity = Literal["error", "warning"]
EXAMPLES = 20  # kept of each kind

# What to do about a kind of problem, short enough for a line of 80 columns. Kinds without an entry explain themselves.
REMEDIES = {
    "annotation file unreadable": "fetch or write it again",
    "malformed category": "correct the entry of categories",
    "isthing missing": "1 for things, which are countable, 0 for stuff",
    "duplicate category id": "give every category its own id",
    "category id too large": "number the categories anew",
    "malformed images": "correct the entry of images",
    "malformed annotations": "correct the entry of annotations",
    "malformed segment": "correct the field in segments_info",
    "malformed object": "correct the entry of the instances JSON",
    "malformed segmentation": "write polygons or run lengths",
    "duplicate image id": "give every picture its own id",
    "duplicate annotation": "keep one entry for each picture",
    "duplicate segment id": "ids have to differ within a picture",
    "duplicate annotation id": "give every annotation its own id",
    "image without annotation": "annotate it, or drop its entry",
    "annotation without image": "add the image, or drop its entry",
    "unknown category": "correct it, or add it to categories",
    "object of no thing category": "use the panoptic JSON's things",
    "picture missing": "add the file, or drop its entry",
    "picture unreadable": "fetch or write it again",
    "picture neither JPEG nor PNG": "convert it",
    "picture size differs from the JSON": "correct one of them",
    "EXIF orientation": "see with --draw whether the mask fits",
    "picture twice in the split": "keep one of them",
    "picture used under several ids": "keep one of the entries",
    "mask missing": "add the file, or drop its entry",
    "mask unreadable": "fetch or write it again",
    "mask not a PNG": "other formats change the ids",
    "mask not RGB": "id = R + 256 G + 65536 B, 8 bits each",
    "mask with a palette": "write RGB: not every tool reads it",
    "mask size differs from the JSON": "correct one of them",
    "mask id not in the JSON": "list it, or set its pixels to 0",
    "segment without pixels": "drop it, or draw it in the mask",
    "area differs from the mask": "set area to the number of pixels",
    "box differs from the mask": "set bbox to the box of the pixels",
    "crowd of stuff": "set iscrowd to 0, only things come in crowds",
    "category without any segment": "it cannot be learned or scored",
    "empty object mask": "make-tfrecords leaves it out",
    "object box without area": "make-tfrecords leaves it out",
    "object box outside the picture": "make-tfrecords leaves it out",
    "object box leaves the picture": "make-tfrecords cuts it off",
    "object box differs from its mask": "bbox is [x, y, w, h]",
    "object area differs from its mask": "count the pixels",
    "damaged record file": "make or copy it again",
    "shard missing": "make or copy it again",
    "shard of another conversion": "remove it",
    "shard differs from the manifest": "make it again",
    "conversion not finished": "run make-tfrecords again, it goes on",
    "shards of the set are missing": "fine for a part of the set",
}


@dataclass
class Finding:
    """Problems of one kind.

    Attributes:
        kind: what sort of problem.
        severity: "error" where training or scoring would go wrong, "warning" where it may be meant so.
        count: how many.
        examples: the first few, one line each.
    """

    kind: str
    severity: Severity
    count: int = 0
    examples: list[str] = field(default_factory=list)

    @property
    def remedy(self) -> str:
        """What to do about it; empty where the examples say all there is to say."""
        if self.kind.startswith("picture also in "):
            return "keep it in one split only"
        return REMEDIES.get(self.kind, "")

    def to_dict(self) -> dict[str, Any]:
        """Returns the finding as --json prints it."""
        return {**vars(self), "remedy": self.remedy}


@dataclass
class Findings:
    """All problems of a check, by kind."""

    by_kind: dict[str, Finding] = field(default_factory=dict)

    def add(self, kind: str, message: str, severity: Severity = "error") -> None:
        """Counts one problem."""
        self._merge(Finding(kind, severity, 1, [message]))

    def update(self, others: Iterable[Finding]) -> None:
        """Adds problems counted elsewhere, behind those already here."""
        for finding in others:
            self._merge(finding)

    def _merge(self, finding: Finding) -> None:
        mine = self.by_kind.setdefault(finding.kind, Finding(finding.kind, finding.severity))
        mine.count += finding.count
        mine.examples.extend(finding.examples[: EXAMPLES - len(mine.examples)])

    def ordered(self) -> list[Finding]:
        """Errors first, then the most frequent."""
        return sorted(self.by_kind.values(), key=lambda f: (f.severity != "error", -f.count, f.kind))

    def count(self, severity: Severity) -> int:
        """How many problems are errors, or warnings."""
        return sum(f.count for f in self.by_kind.values() if f.severity == severity)

    @property
    def errors(self) -> int:
        """How many problems are errors."""
        return self.count("error")

    def to_list(self) -> list[dict[str, Any]]:
        """Returns the problems as --json prints them."""
        return [finding.to_dict() for finding in self.ordered()]
