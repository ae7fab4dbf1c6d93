"""Problems that a check of data found, counted by kind, with a few examples of each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

Severity = Literal["error", "warning"]
EXAMPLES = 20  # kept for each kind

# What to do about each kind of problem, short enough for a line of 80 columns. Other kinds explain themselves.
REMEDIES = {
    "annotation file unreadable": "fetch it again or write it again",
    "annotation file of another kind": "give the right one",
    "malformed category": "correct the entry of categories",
    "isthing missing": "1 for things, which are countable, 0 for stuff",
    "duplicate category id": "give every category its own id",
    "category id too large": "renumber the categories",
    "malformed images": "correct the entry of images",
    "malformed annotations": "correct the entry of annotations",
    "malformed segment": "correct the field in segments_info",
    "malformed object": "correct the entry of the instances JSON",
    "malformed segmentation": "write polygons or run lengths",
    "duplicate image id": "give every picture its own id",
    "duplicate annotation": "keep one entry for each picture",
    "duplicate segment id": "give every segment its own id",
    "image without annotation": "drop it, or --on-bad-data void",
    "image of another size": "both JSONs must have the same size",
    "image of another file name": "give JSONs of the same pictures",
    "objects of other pictures": "give the instances JSON of these",
    "category differs between splits": "use the same table",
    "picture without any segment": "it is unlabelled",
    "polygon of fewer than three points": "it has no area",
    "polygons that are not in a list": "each is taken as one",
    "polygons of x, y pairs": "each is taken as one",
    "object on no segment of its category": "do ids and sizes fit?",
    "annotation without image": "add the image, or drop its entry",
    "unknown category": "correct it, or add it to categories",
    "object of an unknown category": "use a thing of the panoptic JSON",
    "picture missing": "add the file, or drop its entry",
    "picture unreadable": "fetch it again or write it again",
    "picture too large": "cut it into tiles, or raise --max-pixels",
    "picture neither JPEG nor PNG": "make-tfrecords stores it as PNG",
    "picture of several frames": "the first is used",
    "picture of more than 8 bits": "make-tfrecords scales it so",
    "picture size differs from the JSON": "correct one of them",
    "EXIF orientation, both ways fit": "see --draw, --exif",
    "EXIF orientation, picture turned": "masks fit only so",
    "EXIF orientation, picture as stored": "masks fit only so",
    "picture twice in the split": "keep one of them",
    "picture used under several ids": "keep one of the entries",
    "mask missing": "add the file, or drop its entry",
    "mask unreadable": "fetch it again or write it again",
    "mask too large": "cut it into tiles, or raise --max-pixels",
    "mask size differs from the JSON": "correct one of them",
    "mask id not in the JSON": "list it, or set its pixels to 0",
    "segment without pixels": "make-tfrecords leaves it out",
    "area differs from the mask": "pixels count, not area",
    "box differs from the mask": "set bbox to the box of the pixels",
    "stuff category in several segments": "merge with --merge-stuff",
    "crowd of stuff": "set iscrowd to 0: only things have crowds",
    "category without any segment": "it cannot be learned or scored",
    "empty object mask": "make-tfrecords skips it",
    "object box without area": "make-tfrecords skips it",
    "object box outside the picture": "make-tfrecords skips it",
    "object box leaves the picture": "make-tfrecords clips it",
    "object box differs from its mask": "bbox is [x, y, w, h]",
    "object area differs from its mask": "count the pixels",
    "damaged record file": "make it again or copy it again",
    "shard missing": "make it again or copy it again",
    "shard of another conversion": "remove it",
    "shard differs from the manifest": "make it again",
    "conversion not finished": "run make-tfrecords again; it continues",
    "shards of the set are missing": "fine if only a part is needed",
}


@dataclass
class Finding:
    """Problems of one kind.

    Attributes:
        kind: the kind of problem.
        severity: "error" if training or scoring would go wrong, "warning" if it may be intended.
        count: number of problems.
        examples: the first problems, one line each.
        detail: what to do about it or what was assumed; empty for the remedy of its kind.
    """

    kind: str
    severity: Severity
    count: int = 0
    examples: list[str] = field(default_factory=list)
    detail: str = ""

    @property
    def remedy(self) -> str:
        """What to do about it; empty if the kind explains itself."""
        if self.detail:
            return self.detail
        if self.kind.startswith("picture also in "):
            return "keep it in one split only"
        return REMEDIES.get(self.kind, "")

    def to_dict(self) -> dict[str, Any]:
        """Returns the finding as --json prints it."""
        return {key: value for key, value in vars(self).items() if key != "detail"} | {"remedy": self.remedy}


@dataclass
class Findings:
    """All problems of a check by kind."""

    by_kind: dict[str, Finding] = field(default_factory=dict)

    def add(self, kind: str, message: str, severity: Severity = "error") -> None:
        """Counts one problem."""
        self._merge(Finding(kind, severity, 1, [message]))

    def update(self, others: Iterable[Finding]) -> None:
        """Adds problems that were counted elsewhere."""
        for finding in others:
            self._merge(finding)

    def _merge(self, finding: Finding) -> None:
        mine = self.by_kind.setdefault(finding.kind, Finding(finding.kind, finding.severity, detail=finding.detail))
        mine.count += finding.count
        mine.examples.extend(finding.examples[: EXAMPLES - len(mine.examples)])

    def ordered(self) -> list[Finding]:
        """Returns the findings, errors first and the most frequent first."""
        return sorted(self.by_kind.values(), key=lambda f: (f.severity != "error", -f.count, f.kind))

    def count(self, severity: Severity) -> int:
        """Returns the number of errors or of warnings."""
        return sum(f.count for f in self.by_kind.values() if f.severity == severity)

    @property
    def errors(self) -> int:
        """The number of errors."""
        return self.count("error")

    def to_list(self) -> list[dict[str, Any]]:
        """Returns the problems as --json prints them."""
        return [finding.to_dict() for finding in self.ordered()]
