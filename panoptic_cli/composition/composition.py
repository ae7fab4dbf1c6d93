"""Making a panoptic data set: parallel, repeatable, safe to interrupt.

Every made picture is entered in a journal in the folder of the PNGs, a line each. A later run keeps the pictures whose
annotation files, options, semantic PNG and panoptic PNG are unchanged. The panoptic JSON is written at the end.
"""

from __future__ import annotations

import contextlib
import glob
import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from panoptic_cli import console
from panoptic_cli.composition.journal import journal_line, read_journal, still_valid
from panoptic_cli.composition.pictures import MadePicture, make_picture
from panoptic_cli.composition.plans import JOURNAL, CompositionPlan
from panoptic_cli.composition.preparation import Composition, prepare
from panoptic_cli.errors import DataError, counted
from panoptic_cli.files import atomic_path, remove, remove_left
from panoptic_cli.images.encoded import PictureError
from panoptic_cli.interrupts import terminate_as_interrupt
from panoptic_cli.locks import folder_lock
from panoptic_cli.processes import preload, run_units

_UNIT = 8  # pictures that a worker makes at a time
_EXAMPLES = 20  # vanished things that are named


@dataclass
class CompositionSummary:
    """What was made. All counts include the pictures that were kept.

    Attributes:
        name: name of the split.
        output: the panoptic JSON.
        masks_dir: folder of the panoptic PNGs.
        pictures: number of pictures.
        kept_pictures: number of pictures that were made before.
        things: number of segments that are things, without crowds.
        crowds: number of segments that are crowds.
        stuff: number of segments that are stuff.
        partly_hidden: number of things and crowds that others hide in part, by at most half.
        mostly_hidden: number of things and crowds that others hide by more than half.
        wholly_hidden: number of things and crowds that others hide wholly; they have no segment.
        vanished: the first of these, one line each.
        empty: number of annotations without outline or without pixels.
        reshaped: number of annotations whose polygons are not in COCO's form, but clear.
        without_segments: number of pictures that are unlabelled as a whole.
        unlabelled_share: share of the pixels that are unlabelled, 0..1.
        skipped_pictures: number of skipped pictures by reason.
        seconds: wall time.
    """

    name: str
    output: str
    masks_dir: str
    pictures: int = 0
    kept_pictures: int = 0
    things: int = 0
    crowds: int = 0
    stuff: int = 0
    partly_hidden: int = 0
    mostly_hidden: int = 0
    wholly_hidden: int = 0
    vanished: list[str] = field(default_factory=list)
    empty: int = 0
    reshaped: int = 0
    without_segments: int = 0
    unlabelled_share: float = 0.0
    skipped_pictures: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0


def compose_all(plans: Sequence[CompositionPlan], workers: int) -> list[CompositionSummary]:
    """Makes the panoptic data of several splits; see `compose`. All annotation files are read first."""
    if workers > 1:
        preload(__name__)  # the processes start while the annotations are read
    return [compose(composition, workers) for composition in [prepare(plan) for plan in plans]]


def compose(composition: Composition, workers: int) -> CompositionSummary:
    """Makes the panoptic data of one split.

    Args:
        composition: from `prepare`.
        workers: number of processes; with 1, this process does the work.

    Raises:
        DataError: a picture cannot be made (with on_bad_data "fail"), or a folder cannot be created.
        RunError: another process is writing to the folder.
    """
    plan = composition.plan
    try:
        plan.masks_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"The folder {plan.masks_dir} cannot be created: {error.strerror}.", "Check it.") from None
    with folder_lock(plan.masks_dir, "panoptic make-panoptic", "give another --output"), terminate_as_interrupt():
        return _compose(composition, workers)


def _compose(composition: Composition, workers: int) -> CompositionSummary:
    begun = time.monotonic()
    plan, source = composition.plan, composition.source
    journal = plan.masks_dir / JOURNAL
    former = read_journal(journal)
    made = still_valid(composition, former)
    kept = len(made)
    todo = [place for place in range(len(source)) if place not in made]
    skipped: Counter[str] = Counter()
    if todo:
        remove(plan.output)  # until it is written again, it would not fit the PNGs
    remove_left(plan.masks_dir, "**/*")
    remove_left(plan.output.parent, glob.escape(plan.output.name))
    with atomic_path(journal) as partial_path:
        partial_path.write_text("".join(journal_line(composition, place, picture) for place, picture in made.items()))
    units = [todo[start : start + _UNIT] for start in range(0, len(todo), _UNIT)]
    outcomes = partial(run_units, partial(_make, composition), units, min(workers, len(units)))
    try:
        with (
            journal.open("a", encoding="utf-8") as lines,
            console.progress(f"Making {plan.name}", len(source), "images", start=kept) as advance,
            contextlib.closing(outcomes(advance)) as found,
        ):
            for pictures, reasons in found:
                made |= pictures
                skipped.update(reasons)
                lines.writelines(journal_line(composition, place, picture) for place, picture in pictures.items())
                lines.flush()
    except KeyboardInterrupt:
        console.warn(f"{len(made):,} of {counted(len(source), 'pictures')} are made; the same command makes the others")
        raise
    for name in {picture.png for _, picture in former.values()} - {picture.png for picture in made.values()}:
        remove(plan.masks_dir / name)
    summary = _summarize(plan, made, skipped)
    if summary.empty and summary.without_segments == summary.pictures:
        raise DataError(
            f"No annotation of {plan.object_annotations} has an outline with pixels.",
            "Boxes are not enough: annotate polygons or masks.",
        )
    _write_json(composition, made)
    return replace(summary, kept_pictures=kept, seconds=time.monotonic() - begun)


def _make(
    composition: Composition, places: list[int], advance: Callable[[int], None]
) -> tuple[dict[int, MadePicture], list[str]]:
    """Makes pictures; returns them by place, and the reasons of those that are skipped."""
    plan, source = composition.plan, composition.source
    made: dict[int, MadePicture] = {}
    reasons = []
    for place in places:
        try:
            made[place] = make_picture(plan, source, composition.vocabulary, place)
        except PictureError as error:
            if plan.on_bad_data == "fail":
                entry = source.entry(place)
                raise DataError(
                    f"Picture {entry.get('id')} ({entry.get('file_name')}) cannot be made: {error}.",
                    "Repair it, or use --on-bad-data skip.",
                ) from None
            reasons.append(error.reason)
    advance(len(places))
    return made, reasons


def _write_json(composition: Composition, made: dict[int, MadePicture]) -> None:
    """Writes the panoptic JSON, picture by picture."""
    pictures = [made[place] for place in sorted(made)]
    source = composition.plan.object_annotations.name
    with atomic_path(composition.plan.output) as partial_path, partial_path.open("w", encoding="utf-8") as file:
        file.write(f'{{"info": {json.dumps({"description": f"Made by panoptic make-panoptic from {source}"})}')
        for key, entries in (
            ("images", (picture.image for picture in pictures)),
            ("annotations", (picture.annotation for picture in pictures)),
            ("categories", map(json.dumps, composition.vocabulary.table.to_list())),
        ):
            file.write(f',\n"{key}": [')
            for place, entry in enumerate(entries):
                file.write((",\n" if place else "\n") + entry)
            file.write("]")
        file.write("}\n")


def _summarize(plan: CompositionPlan, made: dict[int, MadePicture], skipped: Counter[str]) -> CompositionSummary:
    counts: Counter[str] = Counter()
    vanished: list[str] = []
    for _, picture in sorted(made.items()):
        counts.update(picture.counts)
        vanished += picture.vanished[: _EXAMPLES - len(vanished)]
    return CompositionSummary(
        plan.name,
        str(plan.output),
        str(plan.masks_dir),
        pictures=len(made),
        things=counts["things"],
        crowds=counts["crowds"],
        stuff=counts["stuff"],
        partly_hidden=counts["partly"],
        mostly_hidden=counts["mostly"],
        wholly_hidden=counts["wholly"],
        vanished=vanished,
        empty=counts["empty"],
        reshaped=counts["reshaped"],
        without_segments=sum(picture.counts["pixels"] == picture.counts["unlabelled"] for picture in made.values()),
        unlabelled_share=counts["unlabelled"] / max(counts["pixels"], 1),
        skipped_pictures=dict(sorted(skipped.items())),
    )
