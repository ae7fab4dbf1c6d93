"""What a check of data found: problems of the same kind counted together, with the first few of each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

Severity = Literal["error", "warning"]
EXAMPLES = 5  # kept of each kind


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

    @property
    def errors(self) -> int:
        """How many problems are errors."""
        return sum(f.count for f in self.by_kind.values() if f.severity == "error")

    def to_list(self) -> list[dict[str, Any]]:
        """Returns the problems as --json prints them."""
        return [vars(finding) for finding in self.ordered()]
