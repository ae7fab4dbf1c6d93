"""Reading and checking what a panoptic data set is made from, before any picture is opened."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property

from panoptic_cli import console
from panoptic_cli.categories import MAX_CATEGORY_ID
from panoptic_cli.coco.category_map import read_category_map
from panoptic_cli.composition.plans import JOURNAL, CompositionPlan
from panoptic_cli.composition.source import Source, read_source
from panoptic_cli.composition.vocabulary import Vocabulary, combine, read_category_list
from panoptic_cli.errors import DataError, listed

_VERSION = 1  # increase it if the same input gives other PNGs


@dataclass(frozen=True)
class Composition:
    """A plan with what its annotation files contain."""

    plan: CompositionPlan
    source: Source
    vocabulary: Vocabulary

    @cached_property
    def digest(self) -> str:
        """The digest of everything that all pictures depend on."""
        words = self.vocabulary
        ids = [sorted(words.of_objects.items()), sorted(words.of_stuff.items()), sorted(words.unlabelled)]
        parts = [_VERSION, self.source.digests, words.table.to_list(), ids, self.plan.overlaps]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def prepare(plan: CompositionPlan) -> Composition:
    """Reads and checks the annotation files, the categories and the category map of a plan; no picture is opened.

    Raises:
        ConfigError: the category map does not fit the categories.
        DataError: a file is missing or not usable, annotations have unknown categories, or the output exists and is
            not ours.
    """
    _check_output(plan)
    source, objects, stuff = read_source(plan.object_annotations, plan.stuff_annotations)
    if plan.stuff_categories is not None:
        stuff = read_category_list(plan.stuff_categories)
    vocabulary = combine(objects, stuff)
    for outlines in source.outlines:
        known = {*vocabulary.of_stuff, *vocabulary.unlabelled} if outlines.is_stuff else {*vocabulary.of_objects}
        unknown = sorted(str(category) for category in outlines.categories - known)
        if unknown:
            raise DataError(
                f"Annotations of {outlines.file.path} have categories that its categories lack: {listed(unknown)}.",
                "Add them to categories.",
            )
    if plan.category_map is not None:
        vocabulary = vocabulary.mapped(read_category_map(plan.category_map, vocabulary.table))
    if plan.stuff_annotations is not None or plan.semantic_masks is not None:
        vocabulary = vocabulary.settled()
    for note in vocabulary.notes:
        console.info(note)
    if plan.semantic_masks is not None and not vocabulary.of_stuff:
        raise DataError(
            f"The values in {plan.semantic_masks} have no names: no category is stuff.",
            "Name them with --stuff-categories, or set isthing to 0 in the instances JSON.",
        )
    if vocabulary.table.max_id > MAX_CATEGORY_ID:
        raise DataError(
            f"The category id {vocabulary.table.max_id} is too large; records allow ids up to {MAX_CATEGORY_ID}.",
            "Renumber the categories with --category-map.",
        )
    if not len(source):
        raise DataError(f"{plan.object_annotations} has no images.", "Give a file in COCO's form.")
    return Composition(plan, source, vocabulary)


def _check_output(plan: CompositionPlan) -> None:
    """Refuses to replace a panoptic JSON or PNGs that were made by others."""
    if (plan.masks_dir / JOURNAL).exists():
        return
    for path in (plan.output, plan.masks_dir):
        if path.is_file() or (path.is_dir() and any(path.iterdir())):
            raise DataError(
                f"{path} exists and was not made by panoptic make-panoptic, so it is not replaced.",
                "Move it away, or name your file with --object-annotations and another place with --output.",
            )
