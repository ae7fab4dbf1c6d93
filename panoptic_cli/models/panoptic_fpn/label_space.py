"""The classes of Panoptic FPN's heads, and their category ids."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from panoptic_cli.categories import MAX_CATEGORY_ID, CategoryTable
from panoptic_cli.config.schema import Experiment, Task
from panoptic_cli.errors import ConfigError, summarize

VOID_CLASS = 0  # of the semantic head: unlabelled pixels
THING_CLASS = 1  # of the semantic head: any thing


@dataclass(frozen=True, eq=False)
class LabelSpace:
    """Maps category ids to the classes of the network's heads, and back.

    There are two kinds. With `stuff_classes_offset` (90 in the reference's `panoptic_fpn_coco`), the class of a thing
    is its id and the semantic class of stuff is its id minus the offset, so that published checkpoints keep their
    meaning. Without it (None), classes are numbered in table order: things from 1, stuff from 2 in the semantic head.

    Attributes:
        table: the categories.
        stuff_classes_offset: see above.
        num_classes: number of classes of the box and mask heads, background included.
        num_semantic_classes: classes of the semantic head: void, thing and the stuff categories.
        thing_ids: int64 [num_classes], the category id of each class; 0 for the background.
        semantic_ids: int64 [num_semantic_classes], the stuff category id of each class; 0 for void and thing.
            With an offset, classes between the table's categories keep the id that the offset gives them, as in the
            reference, although no category has this id.
    """

    table: CategoryTable
    stuff_classes_offset: int | None
    num_classes: int
    num_semantic_classes: int
    thing_ids: np.ndarray
    semantic_ids: np.ndarray

    @classmethod
    def create(
        cls,
        table: CategoryTable,
        stuff_classes_offset: int | None = None,
        num_classes: int | None = None,
        num_semantic_classes: int | None = None,
    ) -> LabelSpace:
        """Builds the mapping and checks that every category fits.

        Args:
            table: the data set's categories.
            stuff_classes_offset: the offset; None for classes in table order.
            num_classes: number of classes of the box and mask heads; None to derive it.
            num_semantic_classes: number of classes of the semantic head; None to derive it.

        Raises:
            ConfigError: categories have no class in heads of these sizes (lists all of them), or an id is larger than
                records can hold.
        """
        largest = max((c.id for c in table.categories), default=0)
        if largest > MAX_CATEGORY_ID:
            raise ConfigError(
                f"The category id {largest} is too large: records hold ids up to {MAX_CATEGORY_ID}.",
                "Renumber the categories.",
            )
        offset = stuff_classes_offset
        if offset is None:
            thing_class = {c.id: place for place, c in enumerate(table.things, start=1)}
            stuff_class = {c.id: place for place, c in enumerate(table.stuff, start=2)}
        else:
            thing_class = {c.id: c.id for c in table.things}
            stuff_class = {c.id: c.id - offset for c in table.stuff}
        boxes = num_classes or max(thing_class.values(), default=0) + 1
        semantic = num_semantic_classes or max(stuff_class.values(), default=1) + 1
        problems = [
            f"thing {i} ({table.by_id[i].name}) would be class {c} of {boxes}"
            for i, c in thing_class.items()
            if not 0 < c < boxes
        ]
        problems += [
            f"stuff {i} ({table.by_id[i].name}) would be semantic class {c} of {semantic}"
            for i, c in stuff_class.items()
            if not THING_CLASS < c < semantic
        ]
        if problems:
            raise ConfigError(
                f"The categories do not fit the configured heads: {summarize(problems)}.",
                "For your own categories, use --params-override 'task.model.stuff_classes_offset=null,"
                "task.model.num_classes=null,task.model.segmentation_model.num_classes=null'.",
            )
        thing_ids = np.zeros(boxes, np.int64)
        semantic_ids = np.zeros(semantic, np.int64)
        if offset is not None:
            thing_ids[:] = np.arange(boxes)
            semantic_ids[THING_CLASS + 1 :] = np.arange(THING_CLASS + 1, semantic) + offset
        for identifier, label in thing_class.items():
            thing_ids[label] = identifier
        for identifier, label in stuff_class.items():
            semantic_ids[label] = identifier
        return cls(table, offset, boxes, semantic, thing_ids, semantic_ids)

    @cached_property
    def thing_id_of_class(self) -> np.ndarray:
        """int64 [num_classes]: like `thing_ids`, but 0 for classes without a category in the table."""
        return np.where(np.isin(self.thing_ids, [c.id for c in self.table.things]), self.thing_ids, 0)

    @cached_property
    def stuff_id_of_class(self) -> np.ndarray:
        """int64 [num_semantic_classes]: like `semantic_ids`, but 0 for classes without a category in the table."""
        return np.where(np.isin(self.semantic_ids, [c.id for c in self.table.stuff]), self.semantic_ids, 0)

    @cached_property
    def thing_class_of_id(self) -> np.ndarray:
        """int32 [max id + 1]: class of the box head by category id; 0 for ids that are not things."""
        return self._classes_of_ids(self.thing_ids, [c.id for c in self.table.things])

    @cached_property
    def semantic_class_of_id(self) -> np.ndarray:
        """int32 [max id + 1]: semantic class by category id: 1 for things, 0 (void) for ids not in the table."""
        lookup = self._classes_of_ids(self.semantic_ids, [c.id for c in self.table.stuff])
        lookup[[c.id for c in self.table.things]] = THING_CLASS
        return lookup

    def _classes_of_ids(self, ids_of_classes: np.ndarray, category_ids: list[int]) -> np.ndarray:
        lookup = np.zeros(self.table.max_id + 1, np.int32)
        classes = {int(identifier): label for label, identifier in enumerate(ids_of_classes)}
        for identifier in category_ids:
            lookup[identifier] = classes[identifier]
        return lookup


def label_space_of(experiment: Experiment, table: CategoryTable) -> LabelSpace:
    """Builds the label space of an experiment.

    Args:
        experiment: `task.model` has the offset and, if they are fixed, the sizes of the heads.
        table: the data set's categories.

    Raises:
        ConfigError: categories have no class in heads of the configured sizes; lists all of them.
    """
    model = experiment.task.model
    return LabelSpace.create(table, model.stuff_classes_offset, model.num_classes, model.segmentation_model.num_classes)


def derive_classes(task: Task) -> Task:
    """Returns the configuration without fixed class counts: classes are counted in table order."""
    branch = task.model.segmentation_model.model_copy(update={"num_classes": None})
    changes = {"stuff_classes_offset": None, "num_classes": None, "segmentation_model": branch}
    return task.model_copy(update={"model": task.model.model_copy(update=changes)})
