"""Plans: which annotation files become which panoptic data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from panoptic_cli.coco.layout import SPLIT_NAMES, coco_files
from panoptic_cli.composition.painting import Overlaps
from panoptic_cli.errors import DataError, UsageError, summarize

JOURNAL = ".make-panoptic.jsonl"  # in the folder of the PNGs


@dataclass(frozen=True)
class CompositionPlan:
    """What to make panoptic data from, and how.

    Attributes:
        name: the split, for messages.
        object_annotations: COCO instances JSON.
        output: the panoptic JSON.
        masks_dir: folder of the panoptic PNGs.
        image_dir: folder of the pictures, for sizes that the JSON lacks; None if there is none.
        stuff_annotations: COCO stuff JSON, if any.
        semantic_masks: folder of semantic PNGs, if any.
        stuff_categories: JSON or YAML file that names the values of the semantic PNGs; None if the instances JSON does.
        category_map: a YAML file that changes the categories, see `coco.category_map`.
        overlaps: which of two overlapping objects is on top.
        on_bad_data: at a picture that cannot be made, "fail" or "skip" it and count it.
    """

    name: str
    object_annotations: Path
    output: Path
    masks_dir: Path
    image_dir: Path | None = None
    stuff_annotations: Path | None = None
    semantic_masks: Path | None = None
    stuff_categories: Path | None = None
    category_map: Path | None = None
    overlaps: Overlaps = "smaller-on-top"
    on_bad_data: Literal["fail", "skip"] = "fail"


def plan_own_files(object_annotations: Path, output: Path | None, image_dir: Path | None) -> CompositionPlan:
    """Plans a split in another layout than COCO's; stuff and options are added with `with_stuff` and `replace`.

    Args:
        object_annotations: the instances JSON.
        output: the panoptic JSON; by default beside the instances JSON, with "panoptic" in its name. The PNGs go to a
            folder of that name without .json.
        image_dir: folder of the pictures.

    Raises:
        UsageError: the output is not a .json file.
        DataError: the pictures' folder does not exist.
    """
    if output is None:
        name = object_annotations.name.removeprefix("instances").lstrip("_")
        output = object_annotations.with_name(f"panoptic_{name}" if name != ".json" else "panoptic.json")
    if output.suffix != ".json":
        raise UsageError(f"--output is the panoptic JSON, so it must end with .json, not {output.name!r}.")
    if image_dir is not None and not image_dir.is_dir():
        raise DataError(f"The folder of pictures {image_dir} does not exist.", "Check the path.")
    return CompositionPlan(output.stem, object_annotations, output, output.with_suffix(""), image_dir)


def plan_coco_splits(data_dir: Path, splits: Sequence[str]) -> list[CompositionPlan]:
    """Plans the splits of a data set in COCO's layout; annotations/stuff_*2017.json is used if it exists.

    Args:
        data_dir: folder of annotations/ and the pictures.
        splits: names of splits; by default all with an instances JSON.

    Raises:
        UsageError: a split has another name than COCO's.
        DataError: there is no such folder or no instances JSON.
    """
    unknown = [name for name in splits if name not in SPLIT_NAMES]
    if unknown:
        raise UsageError(f"--split is train or val, not {unknown[0]!r}.")
    if not data_dir.is_dir():
        raise DataError(
            f"The data folder {data_dir} does not exist.", "Give --data-dir, or name your file: --object-annotations."
        )
    plans = [_coco_plan(data_dir, name) for name in dict.fromkeys(splits or SPLIT_NAMES)]
    missing = [str(plan.object_annotations) for plan in plans if not plan.object_annotations.is_file()]
    if len(missing) == len(plans) or (splits and missing):
        raise DataError(
            f"{data_dir} has no object annotations; not found: {summarize(missing)}.",
            "Give --data-dir, or name your file: --object-annotations.",
        )
    return [plan for plan in plans if plan.object_annotations.is_file()]


def _coco_plan(data_dir: Path, name: str) -> CompositionPlan:
    files, annotations = coco_files(data_dir, name), data_dir / "annotations"
    stuff = annotations / f"stuff_{name}2017.json"
    return CompositionPlan(
        name,
        annotations / f"instances_{name}2017.json",
        files.panoptic_annotations,
        files.panoptic_masks,
        image_dir=files.image_dir if files.image_dir.is_dir() else None,
        stuff_annotations=stuff if stuff.is_file() else None,
    )


def with_stuff(
    plans: Sequence[CompositionPlan],
    stuff_annotations: Path | None,
    semantic_masks: Path | None,
    stuff_categories: Path | None,
) -> list[CompositionPlan]:
    """Adds the stuff to plans.

    Args:
        plans: the plans.
        stuff_annotations: a COCO stuff JSON, for one split.
        semantic_masks: folder of semantic PNGs. In COCO's layout, each split has its own in train2017 and val2017 if
            these folders exist.
        stuff_categories: names of the values in the PNGs.

    Raises:
        UsageError: the files contradict each other.
        DataError: the folder does not exist.
    """
    if stuff_annotations is not None and semantic_masks is not None:
        raise UsageError("--stuff-annotations and --semantic-masks exclude each other.", "Give one of them.")
    if stuff_categories is not None and semantic_masks is None:
        raise UsageError("--stuff-categories names the values of --semantic-masks.", "Give both.")
    if stuff_annotations is not None and len(plans) > 1:
        raise UsageError("--stuff-annotations belongs to one split.", "Choose it with --split.")
    if semantic_masks is None:
        given = stuff_annotations
        return [p if given is None else replace(p, stuff_annotations=given) for p in plans]
    if not semantic_masks.is_dir():
        raise DataError(f"The folder of semantic PNGs {semantic_masks} does not exist.", "Check the path.")
    found = []
    for plan in plans:
        own = semantic_masks / f"{plan.name}2017"
        folder = own if own.is_dir() else semantic_masks
        found.append(replace(plan, stuff_annotations=None, semantic_masks=folder, stuff_categories=stuff_categories))
    return found
