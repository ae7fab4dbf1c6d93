"""The report that `panoptic inspect` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from panoptic_cli import console
from panoptic_cli.errors import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from panoptic_cli.inspection.dataset import SplitReport
    from panoptic_cli.inspection.findings import Finding, Findings
    from panoptic_cli.inspection.inspection import Inspection
    from panoptic_cli.inspection.record_files import RecordReport

_CATEGORIES = 15  # shown of each split; --json has all
_EXAMPLES = 3  # lines shown for each kind; --json has more
_SHORT = 32  # characters of an example that shares a line with others
_WIDTH = 76
_COUNTS = ("pictures", "segments", "things", "stuff", "crowds", "objects")


def inspection_lines(inspection: Inspection) -> list[Any]:
    """Returns the tables and lines to print: categories, counts, problems."""
    if inspection.records is not None:
        return _record_lines(inspection.source.title, inspection.records)
    return _split_lines(inspection.source.title, inspection.splits)


def _split_lines(data: str, reports: Sequence[SplitReport]) -> list[Any]:
    shown: list[Any] = []
    for report in reports:
        shares = report.shares()
        if report.pixels.total():
            rows = [
                [
                    name,
                    str(i or ""),
                    f"{report.contents.pictures_with[i]:,}" if i else "",
                    f"{segments:,}" if i else "",
                    _percent(share),
                ]
                for name, i, segments, share in shares[:_CATEGORIES]
            ]
            shown += _categories(f"{report.name}: categories by pixels", "segments", rows, len(shares))
    rows = [[r.name, *(f"{r.counts[key]:,}" for key in _COUNTS)] for r in reports]
    shown += [console.table(data, ["split", *_COUNTS], rows), ""]
    columns = ["split", "width", "height", "objects per picture", "void %", "crowd %"]
    rows = [
        [
            r.name,
            *(_spread(s.to_dict()) for s in (r.contents.widths, r.contents.heights, r.contents.objects)),
            _percent(r.void_share),
            _percent(r.crowd_share),
        ]
        for r in reports
    ]
    shown += [console.table("Smallest / median / largest, and shares of the pixels", columns, rows), ""]
    for report in reports:
        shown += problem_lines(report.name, report.findings)
    if any(report.findings.errors for report in reports):
        shown.append("make-tfrecords stops at errors; --on-bad-data skip leaves out pictures that have them.")
    return shown


def _record_lines(data: str, report: RecordReport) -> list[Any]:
    shares, contents = report.shares(), report.contents
    rows = [
        [
            name,
            str(i or ""),
            f"{contents.pictures_with[i]:,}" if i else "",
            f"{objects:,}" if objects else "",
            _percent(share),
        ]
        for name, i, objects, share in shares[:_CATEGORIES]
    ]
    shown: list[Any] = []
    if contents.pixels.total():
        shown += _categories("Categories by pixels", "objects", rows, len(shares))
    counts = report.counts
    columns = [key for key in counts if key != "bytes"] + ["MB"]
    values = [f"{counts[key]:,}" for key in columns[:-1]] + [f"{counts['bytes'] / 1e6:,.1f}"]
    shown += [console.table(data, columns, [values], left=0), ""]
    spreads = [_spread(s.to_dict()) for s in (contents.widths, contents.heights, contents.objects_per_picture)]
    columns = ["width", "height", "objects per picture", "void %"]
    title = "Smallest / median / largest, and share of the pixels"
    shown += [console.table(title, columns, [[*spreads, _percent(report.void_share)]], left=0), ""]
    shown += problem_lines("records", report.findings)
    if report.findings.errors:
        shown.append("To recreate damaged files, delete them and run panoptic make-tfrecords.")
    return shown


def _categories(title: str, what: str, rows: list[list[str]], total: int) -> list[Any]:
    title += f", the first {len(rows)} of {total}" if len(rows) < total else ""
    return [console.table(title, ["category", "id", "pictures", what, "pixels %"], rows), ""]


def _percent(share: float) -> str:
    return f"{100 * share:.2f}"


def _spread(value: dict[str, int]) -> str:
    return " / ".join(f"{value[key]:,}" for key in ("min", "median", "max"))


def problem_lines(name: str, findings: Findings) -> list[str]:
    """Returns a line for every kind of problem, followed by a few examples."""
    if not findings.by_kind:
        return [f"{name}: no problems."]
    errors, warnings = findings.errors, findings.count("warning")
    lines = [f"{name}: {counted(errors, 'errors')}, {counted(warnings, 'warnings')}"]
    for finding in findings.ordered():
        remedy = f": {finding.remedy}" if finding.remedy else ""
        lines.append(f"  {finding.severity}: {finding.kind} ({finding.count:,}){remedy}")
        lines += [f"      {line}" for line in _examples(finding)]
    return lines


def _examples(finding: Finding) -> list[str]:
    examples = finding.examples
    if not examples:
        return []
    if all(len(example) <= _SHORT for example in examples):  # as many as a line holds
        line = examples[0]
        shown = 1
        for example in examples[1:]:
            if len(line) + len(example) > _WIDTH - 20:
                break
            line, shown = f"{line}, {example}", shown + 1
        rest = finding.count - shown
        return [line + (f" and {rest:,} more" if rest > 0 else "")]
    lines = examples[:_EXAMPLES]
    rest = finding.count - len(lines)
    return [*lines, f"... and {rest:,} more"] if rest > 0 else lines
