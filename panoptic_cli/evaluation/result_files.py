"""Reading COCO panoptic JSONs of ground truth and predictions, picture by picture in pairs."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from panoptic_cli.categories import CategoryTable
from panoptic_cli.errors import DataError, listed
from panoptic_cli.files import read_json

Pair = tuple[dict[str, Any], dict[str, Any]]  # annotations of one picture: ground truth, prediction


@dataclass(frozen=True)
class ResultFiles:
    """A result file and its ground truth.

    Attributes:
        predictions: the result JSON, in COCO's panoptic results format.
        annotations: the ground truth's panoptic JSON.
        predictions_dir: folder of the predicted PNGs; None for the JSON's path without .json.
        masks_dir: folder of the ground truth's PNGs; None for the JSON's path without .json.
        image_dir: folder of the pictures themselves, for the report; None shows the maps alone.
    """

    predictions: Path
    annotations: Path
    predictions_dir: Path | None = None
    masks_dir: Path | None = None
    image_dir: Path | None = None


@dataclass(frozen=True)
class PairedResults:
    """What the JSONs of `ResultFiles` contain.

    Attributes:
        table: the ground truth's categories.
        masks_dir: folder of the ground truth's PNGs.
        predictions_dir: folder of the predicted PNGs.
        pairs: the annotations of each picture of the ground truth, in its order.
        file_names: {image id: file name} of the pictures that the ground truth lists.
        warnings: oddities that do not change the figures.
    """

    table: CategoryTable
    masks_dir: Path
    predictions_dir: Path
    pairs: list[Pair]
    file_names: dict[Any, Any]
    warnings: list[str]


def read_results(files: ResultFiles) -> PairedResults:
    """Reads the JSONs and pairs their pictures.

    Raises:
        DataError: a file or folder is missing or damaged, or a picture of the ground truth has no prediction.
    """
    truth = _read_panoptic_json(files.annotations, "panoptic annotations")
    predicted = _read_panoptic_json(files.predictions, "predictions")
    if not isinstance(truth.get("categories"), list):
        raise DataError(f"{files.annotations} has no list of categories.", "Give a COCO panoptic JSON.")
    pairs, warnings = _pair_up(truth["annotations"], predicted["annotations"], files)
    return PairedResults(
        table=CategoryTable.from_list(truth["categories"], str(files.annotations)),
        masks_dir=_folder(files.masks_dir, files.annotations, "--panoptic-masks"),
        predictions_dir=_folder(files.predictions_dir, files.predictions, "--predictions-dir"),
        pairs=pairs,
        file_names={i.get("id"): i.get("file_name") for i in truth.get("images") or [] if isinstance(i, dict)},
        warnings=warnings,
    )


def _read_panoptic_json(path: Path, what: str) -> dict[str, Any]:
    content = read_json(path, what)
    entries = content.get("annotations") if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise DataError(f"The {what} file {path} has no list of annotations.", "Give a COCO panoptic JSON.")
    for place, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise DataError(f"annotations[{place}] of {path} is not an object.")
        missing = [key for key in ("image_id", "file_name", "segments_info") if key not in entry]
        if missing:
            raise DataError(f"annotations[{place}] of {path} has no {listed(missing)}.")
        for key, kinds in (("image_id", int | str), ("file_name", str)):
            if not isinstance(entry[key], kinds):
                raise DataError(f"annotations[{place}] of {path} has an invalid {key}: {entry[key]!r}.")
    return dict(content)


def _folder(given: Path | None, json_path: Path, option: str) -> Path:
    folder = given if given is not None else json_path.with_suffix("")
    if not folder.is_dir():
        raise DataError(f"The folder {folder} with the PNGs of {json_path} does not exist.", f"Give it with {option}.")
    return folder


def _pair_up(
    truth: list[dict[str, Any]], predicted: list[dict[str, Any]], files: ResultFiles
) -> tuple[list[Pair], list[str]]:
    """Pairs the pictures of the ground truth with their predictions; also returns warnings."""
    by_id: list[dict[Any, dict[str, Any]]] = []
    for entries, path in ((truth, files.annotations), (predicted, files.predictions)):
        found = {entry["image_id"]: entry for entry in entries}
        if len(found) != len(entries):
            counts = Counter(entry["image_id"] for entry in entries)
            repeated = [image_id for image_id, count in counts.items() if count > 1]
            raise DataError(f"{path} lists images twice: {listed(repeated)}.")
        by_id.append(found)
    truth_by_id, predicted_by_id = by_id
    if missing := [i for i in truth_by_id if i not in predicted_by_id]:
        raise DataError(
            f"{files.predictions} has no prediction for {len(missing)} of the {len(truth)} images of "
            f"{files.annotations}: {listed(missing)}.",
            "Every picture of the ground truth needs a prediction; it may be void everywhere.",
        )
    warnings = []
    if surplus := [i for i in predicted_by_id if i not in truth_by_id]:
        warnings.append(
            f"{len(surplus)} predicted images are not in {files.annotations} and do not count: {listed(surplus)}."
        )
    return [(entry, predicted_by_id[image_id]) for image_id, entry in truth_by_id.items()], warnings
