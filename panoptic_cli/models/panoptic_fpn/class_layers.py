"""The variables of Panoptic FPN whose shapes depend on the classes."""

from __future__ import annotations

from panoptic_cli.categories import CategoryTable
from panoptic_cli.models.class_axes import ClassAxis, ClassLabel, category_labels
from panoptic_cli.models.panoptic_fpn.label_space import THING_CLASS, VOID_CLASS, LabelSpace

_REFERENCE_OFFSET = 90  # stuff_classes_offset of tensorflow/models
_BACKGROUND, _VOID, _THING = ClassLabel("background"), ClassLabel("void"), ClassLabel("thing")
_SIDES = 4  # of a box


def class_axes(label_space: LabelSpace) -> dict[str, ClassAxis]:
    """Returns {path of the variable: its class axis} of a network with these classes.

    The box and mask heads have the background and one class for each thing; the boxes of a class are four numbers. The
    semantic head has void, any thing, and the kinds of stuff.
    """
    table = label_space.table
    things = category_labels(label_space.thing_id_of_class, table)
    things[0] = _BACKGROUND
    stuff = category_labels(label_space.stuff_id_of_class, table)
    stuff[VOID_CLASS], stuff[THING_CLASS] = _VOID, _THING
    layers = {
        "detection_head/classifier": (1, things, 1),
        "detection_head/box_regressor": (1, things, _SIDES),
        "mask_head/mask_regressor": (3, things, 1),
        "segmentation_head/classifier": (3, stuff, 1),
    }
    axes = {}
    for layer, (axis, labels, repeats) in layers.items():
        axes[f"{layer}/kernel"] = ClassAxis(axis, tuple(labels), repeats)
        axes[f"{layer}/bias"] = ClassAxis(0, tuple(labels), repeats)
    return axes


def model_garden_class_axes(table: CategoryTable) -> dict[str, ClassAxis]:
    """Returns the class axes of a checkpoint of tensorflow/models, by our paths. Its heads may have further classes.

    Raises:
        ConfigError: the ids of the categories are not possible there.
    """
    return class_axes(LabelSpace.create(table, _REFERENCE_OFFSET))
